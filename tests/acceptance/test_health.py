"""Health in a real installation: what a check finds of a model that runs, and of one that does not."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gguf_files import write_model
from tests.installation import Installation
from tests.waiting import wait_until

MODEL = "SmolLM2-135M-Instruct"
CHECK_SECONDS = 40.0
"""From one check to the next it is 30."""


@pytest.fixture
def dropped(installation: Installation) -> Iterator[Callable[[str], Path]]:
    """Drops a model in, and takes it away and has it forgotten in the end: no other test is to find it."""
    files: dict[str, Path] = {}

    def drop(name: str) -> Path:
        files[name] = write_model(installation.models_dir / name / "model.gguf")
        wait_until(lambda: installation.get(f"/v1/models/{name}")[0] == 200, 10)
        return files[name]

    yield drop
    for name, file in files.items():
        file.unlink()
        check_now(installation, model_id=name)
        deleted = installation.command("models", "delete", name)
        assert deleted.returncode == 0, deleted.stderr


def health(installation: Installation, name: str) -> Any:
    status, body = installation.get(f"/health/model/{name}")
    assert status == 200, body
    return json.loads(body)


def checks(installation: Installation, name: str) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in health(installation, name)["checks"]}


def check_now(installation: Installation, **body: str) -> Any:
    status, answer = installation.post("/health/check", body)
    assert status == 200, answer
    return answer["models"]


def test_a_check_looks_at_what_runs_and_loads_nothing(
    installation: Installation, dropped: Callable[[str], Path]
) -> None:
    dropped("Asleep")
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 1}
    assert installation.post("/v1/chat/completions", body)[0] == 200

    def loaded() -> bool:
        (found,) = check_now(installation, model_id=MODEL)
        return any(each["name"] == "memory_allocation" and each["result"] == "passed" for each in found["checks"])

    wait_until(loaded, 20, lambda: str(checks(installation, MODEL)))
    wait_until(lambda: "MiB of" in checks(installation, MODEL)["memory_allocation"]["reason"], 10)
    assert checks(installation, MODEL)["file_integrity"]["result"] == "passed"

    assert {each["model_id"] for each in check_now(installation)} >= {MODEL, "Asleep"}
    asleep = health(installation, "Asleep")
    assert (asleep["health_status"], asleep["state"], asleep["replica"]) == ("healthy", "cold", None)


def test_models_are_checked_by_celerys_beat(installation: Installation) -> None:
    def checked_at() -> str:
        return str(json.loads(installation.get("/health")[1])["health_checked_at"])

    before = checked_at()
    wait_until(lambda: checked_at() != before, CHECK_SECONDS, lambda: "nobody checks")
    assert json.loads(installation.get("/health")[1])["status"] == "ok"


def test_a_file_that_is_cut_while_its_model_is_loaded_is_known_at_once_and_its_repair_too(
    installation: Installation, dropped: Callable[[str], Path]
) -> None:
    path = dropped("Cut")
    whole = path.read_bytes()
    os.truncate(path, len(whole) // 2)

    (found,) = check_now(installation, model_id="Cut")

    assert found["health_status"] == "unhealthy"
    assert health(installation, "Cut")["health_status"] == "unhealthy"
    path.write_bytes(whole)

    (found,) = check_now(installation, model_id="Cut")

    assert found["health_status"] == "healthy"
