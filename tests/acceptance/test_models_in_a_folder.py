"""Files dropped into the models directory while the server runs."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import gguf_files
from tests.bench.throughput import starter_model
from tests.installation import Installation, running_installation
from tests.waiting import wait_until

LISTED_SECONDS = 2.0


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One of this file's own: the models that are dropped in would answer other tests' `auto`."""
    with running_installation(tmp_path_factory.mktemp("folder")) as started:
        yield started


def listed(installation: Installation, name: str) -> dict[str, object] | None:
    status, model = installation.get(f"/v1/models/{name}")
    return json.loads(model) if status == 200 else None


def test_a_model_that_is_dropped_in_is_listed_within_two_seconds_and_answers(installation: Installation) -> None:
    folder = installation.models_dir / "Dropped"
    folder.mkdir()
    with starter_model().open("rb") as source, (folder / "model.gguf").open("wb") as copy:
        while piece := source.read(8 << 20):
            copy.write(piece)
    last_byte = time.monotonic()
    wait_until(lambda: (listed(installation, "Dropped") or {}).get("health_status") == "healthy", LISTED_SECONDS)
    assert time.monotonic() - last_byte < LISTED_SECONDS
    status, answer = installation.post(
        "/v1/chat/completions",
        {"model": "Dropped", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 4},
    )
    assert status == 200 and answer["model"] == "Dropped"
    assert installation.wait_for_message("Model discovered: Dropped")["module"] == "model_registry"


@pytest.mark.parametrize("kind", ["truncated", "empty", "text"])
def test_a_broken_file_is_listed_unhealthy_with_the_reason_and_harms_nobody(
    installation: Installation, kind: str
) -> None:
    write = {"truncated": gguf_files.write_truncated, "empty": gguf_files.write_empty, "text": gguf_files.write_text}
    name = f"Broken-{kind}"
    write[kind](installation.models_dir / f"{name}.gguf")
    wait_until(lambda: listed(installation, name) is not None, 5)
    model = listed(installation, name)
    assert model is not None and model["health_status"] == "unhealthy"
    health = json.loads(installation.get(f"/v1/models/{name}/health")[1])
    assert health["reasons"]
    status, answer = installation.post(
        "/v1/chat/completions", {"model": name, "messages": [{"role": "user", "content": "x"}]}
    )
    assert status == 503 and answer["error"]["code"] == "no_healthy_model"
    assert installation.get("/health/ready")[0] == 200


def test_a_model_that_vanishes_is_marked_and_not_forgotten(installation: Installation, tmp_path: Path) -> None:
    file = gguf_files.write_model(installation.models_dir / "Fleeting.gguf")
    wait_until(lambda: (listed(installation, "Fleeting") or {}).get("health_status") == "healthy", 5)
    file.rename(tmp_path / "elsewhere.gguf")
    wait_until(lambda: (listed(installation, "Fleeting") or {}).get("health_status") == "unhealthy", 5)
