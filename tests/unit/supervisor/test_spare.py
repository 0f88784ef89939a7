"""A process that waits for a model: there when a load comes, in nobody's way, and never needed."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from inference.protocol import ModelSpec, WorkerStage
from inference.supervisor import spare as spares
from inference.supervisor.environment import worker_environment
from inference.supervisor.events import Event, WorkerExited, WorkerReported, WorkerSpawned
from inference.supervisor.launching import Launch, bury
from inference.supervisor.spare import SPARE_BYTES, Spare, affordable
from inference.supervisor.worker import Worker
from nopenai_site.environment import PROJECT_ROOT
from tests.gguf_files import write_model
from tests.waiting import until

WAITS = (sys.executable, "-c", "import sys; sys.stdin.readline()")
FAILS = (sys.executable, "-c", "raise SystemExit('no such library')")
ENGINE = (sys.executable, "-m", "inference.engine")


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spares, "_QUIET_SECONDS", 0.01)


def a_launch(*spare: str) -> Launch:
    return Launch(
        command=ENGINE,
        spare=spare,
        directory=PROJECT_ROOT,
        environment=worker_environment(os.environ),
        log_level="INFO",
        forward=lambda line: None,
    )


@pytest_asyncio.fixture
async def make() -> AsyncIterator[Callable[..., Spare]]:
    made: list[Spare] = []

    def a_spare(*command: str, busy: Callable[[], bool] = lambda: False) -> Spare:
        made.append(Spare(a_launch(*command), busy))
        made[-1].renew()
        return made[-1]

    yield a_spare
    for spare in made:
        spare.close()


async def waiting(spare: Spare) -> int:
    await until(lambda: spare.pid is not None)
    assert spare.pid is not None
    return spare.pid


def warnings(told: list[Any]) -> list[Any]:
    return [each for each in told if each["log_level"] == "warning"]


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def wait_for_exit(pid: int) -> None:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_a_process_waits_and_is_taken_once(make: Callable[..., Spare]) -> None:
    spare = make(*WAITS)
    pid = await waiting(spare)
    taken = spare.take()
    assert taken is not None and taken.pid == pid
    assert spare.take() is None
    bury(taken)


async def test_the_next_one_is_started_when_one_was_taken(make: Callable[..., Spare]) -> None:
    spare = make(*WAITS)
    first = await waiting(spare)
    taken = spare.take()
    assert taken is not None
    assert await waiting(spare) != first
    bury(taken)


async def test_none_is_started_while_models_are_loaded(make: Callable[..., Spare]) -> None:
    asked: list[int] = []

    def busy() -> bool:
        asked.append(1)
        return len(asked) < 4

    await waiting(make(*WAITS, busy=busy))
    assert len(asked) == 4


async def test_one_that_is_killed_is_replaced_and_never_taken(make: Callable[..., Spare]) -> None:
    spare = make(*WAITS)
    pid = await waiting(spare)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: spare.pid not in (None, pid))
    assert gone(pid)


async def test_one_that_died_this_moment_is_not_taken(make: Callable[..., Spare]) -> None:
    spare = make(*WAITS)
    pid = await waiting(spare)
    os.kill(pid, signal.SIGKILL)
    wait_for_exit(pid)  # without a turn of the loop, which would tell
    assert spare.take() is None
    assert gone(pid)


async def test_one_that_can_not_start_is_given_up_with_its_reason(make: Callable[..., Spare]) -> None:
    with capture_logs() as told:
        spare = make(*FAILS)
        await until(lambda: len(warnings(told)) == spares._MOST_FAILURES)
    assert "no such library" in warnings(told)[-1]["reason"]
    assert warnings(told)[-1]["event"].endswith("from now on")
    assert spare.pid is None and spare.take() is None


async def test_a_command_that_is_not_there_is_given_up(make: Callable[..., Spare]) -> None:
    with capture_logs() as told:
        make("/nowhere/python")
        await until(lambda: len(warnings(told)) == spares._MOST_FAILURES)
    assert "No such file" in warnings(told)[0]["reason"]


async def test_at_the_end_none_is_left(make: Callable[..., Spare]) -> None:
    spare = make(*WAITS)
    pid = await waiting(spare)
    spare.close()
    assert gone(pid)
    spare.renew()
    assert spare.pid is None


def test_a_small_node_has_none() -> None:
    assert affordable(None)
    assert affordable(16 * SPARE_BYTES)
    assert not affordable(16 * SPARE_BYTES - 1)


class Loading:
    """A load by a real engine, with what it posts."""

    def __init__(self, directory: Path, take: Callable[[], Any]) -> None:
        self.events: list[Event] = []
        file = directory / "tiny.gguf"
        write_model(file)
        spec = ModelSpec(version_pk=1, model="tiny", version="1.0.0", files=(str(file),))
        self.worker = Worker(
            1, spec, directory / "w.sock", directory / "kv", a_launch(), self.events.append, lambda _: None,
            take_spare=take,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return next(event.pid for event in self.events if isinstance(event, WorkerSpawned))

    async def until_ready(self) -> None:
        await until(
            lambda: any(isinstance(e, WorkerReported) and e.status.stage is WorkerStage.READY for e in self.events)
        )

    async def stop(self) -> None:
        self.worker.stop(kill=False)
        await until(lambda: isinstance(self.events[-1], WorkerExited))


async def test_a_load_takes_the_process_that_waits(make: Callable[..., Spare], tmp_path: Path) -> None:
    spare = make(*ENGINE, "--spare")
    pid = await waiting(spare)
    load = Loading(tmp_path, spare.take)
    await load.until_ready()
    assert load.pid == pid
    assert name_of(pid) == "engine tiny"
    await load.stop()
    assert load.events[-1] == WorkerExited(1, "it exited by itself")


async def test_a_load_goes_on_without_a_spare_that_just_died(tmp_path: Path) -> None:
    def dead() -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(FAILS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_for_exit(process.pid)
        return process

    load = Loading(tmp_path, dead)
    await load.until_ready()
    await load.stop()


async def test_a_spare_that_dies_amid_its_load_fails_it_like_any_worker(
    make: Callable[..., Spare], tmp_path: Path
) -> None:
    spare = make(*WAITS)  # it takes the arguments, and ends
    await waiting(spare)
    load = Loading(tmp_path, spare.take)
    await until(lambda: bool(load.events) and isinstance(load.events[-1], WorkerExited))
    assert not any(isinstance(event, WorkerReported) for event in load.events)


async def test_an_engine_that_nobody_needs_ends(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(*ENGINE, "--spare", stdin=subprocess.PIPE, cwd=PROJECT_ROOT)
    assert process.stdin is not None
    process.stdin.close()
    async with asyncio.timeout(30):
        assert await process.wait() == 0
