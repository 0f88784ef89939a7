"""What the machine has too little of, or takes away: memory, disk, a model's file, a minute of time."""

import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from registry.starter import starter_path
from tests.installation import Installation
from tests.small_disks import small_disk
from tests.waiting import wait_until

SHORT = "Hello!"
LONG = "a long story about otters " * 220
"""Of more tokens than a short sequence's cells: they take a context that is made when it comes."""
FROZEN_SECONDS = 32.0
"""Longer than gunicorn waits for a sign of life, and than a worker may take to greet."""

Make = Callable[..., Installation]


def ask(installation: Installation, text: str = SHORT, model: str = "auto") -> tuple[int, str]:
    """Status, 0 where the connection broke; and the error's message if there is one."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 4}
    status, answer = installation.post("/v1/chat/completions", body)
    return status, answer["error"]["message"] if status >= 400 else ""


def starter() -> Path:
    path = starter_path()
    assert path is not None
    return path


def started(make: Make, **variables: str) -> Installation:
    installation = make(**variables)
    installation.start()
    installation.wait_started()
    return installation


class TestMemory:
    @pytest.fixture
    def installation(self, own_installation: Make) -> Installation:
        return started(own_installation)

    def test_what_a_worker_can_not_have_fails_one_request_and_no_other(self, installation: Installation) -> None:
        assert ask(installation) == (200, "")
        pid = installation.child("engine")
        with no_more_memory(pid):
            status, message = ask(installation, LONG)
            assert status == 503
            assert "memory" in message
            assert ask(installation) == (200, "")
        assert ask(installation, LONG) == (200, "")
        assert installation.children("engine") == [pid]


@contextmanager
def no_more_memory(pid: int) -> Iterator[None]:
    """The process has what it has now, and a little for small things."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    used = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData"))
    before = resource.prlimit(pid, resource.RLIMIT_DATA)
    resource.prlimit(pid, resource.RLIMIT_DATA, (used + (16 << 20), before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_DATA, before)


class TestDisk:
    def test_requests_go_on_while_the_data_directory_is_full_and_all_is_well_when_it_is_not(
        self, tmp_path: Path, own_installation: Make
    ) -> None:
        with small_disk(tmp_path / "disk", "size=300m") as disk:
            data = disk.path / "data"
            installation = started(own_installation, NOPENAI_DATA_DIR=str(data))
            installation.data_dir = data
            assert ask(installation) == (200, "")
            with filled(disk.path / "filler"):
                assert [ask(installation)[0] for _ in range(5)] == [200] * 5
            shutil.copy(starter(), installation.models_dir / "After.gguf")
            wait_until(lambda: installation.get("/v1/models/After")[0] == 200, 60)
            wait_until(lambda: ask(installation, model="After") == (200, ""), 60)
            installation.stop()


@contextmanager
def filled(path: Path) -> Iterator[None]:
    """The disk that it lies on has no byte left."""
    with path.open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(1 << 20))
    yield
    path.unlink()


class TestFile:
    @pytest.fixture
    def installation(self, own_installation: Make) -> Installation:
        made = own_installation()
        shutil.copy(starter(), made.models_dir / "Own.gguf")
        made.start()
        made.wait_started()
        return made

    def test_a_file_cut_off_under_a_running_worker_is_told_and_serves_again_when_it_is_whole(
        self, installation: Installation
    ) -> None:
        path = installation.models_dir / "Own.gguf"
        assert ask(installation, model="Own") == (200, "")
        os.truncate(path, path.stat().st_size // 2)
        status, message = ask(installation, SHORT * 50, model="Own")
        assert status == 503
        assert "Own" in message
        wait_until(lambda: "truncated" in json.loads(installation.get("/v1/models/Own/health")[1])["reasons"][0], 30)
        whole = path.with_suffix(".whole")
        shutil.copy(starter(), whole)
        whole.replace(path)
        wait_until(lambda: ask(installation, model="Own") == (200, ""), 60)


class TestTime:
    def test_a_machine_that_slept_goes_on(self, own_installation: Make) -> None:
        installation = started(own_installation, NOPENAI_GATEWAY_WORKERS="2")
        assert ask(installation) == (200, "")
        pids = list(installation.processes())
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(FROZEN_SECONDS)  # that it takes time is what is tested
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)
        # gunicorn takes gateways for dead whose last sign of life is half a minute old, as the clock has it.
        wait_until(lambda: ask(installation) == (200, ""), 30)
        installation.wait_ready()
