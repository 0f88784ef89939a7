"""One worker process at a time: what it says becomes events, and its end is always the last of them."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from inference.protocol import CacheBudget, CacheReport, Generate, ModelSpec, WorkerStage, encode_frame
from inference.supervisor import liveness
from inference.supervisor.environment import worker_environment
from inference.supervisor.events import Event, WorkerBusy, WorkerExited, WorkerReported, WorkerSpawned
from inference.supervisor.launching import Launch, explain
from inference.supervisor.worker import Worker
from nopenai_site.environment import PROJECT_ROOT
from tests.gguf_files import write_model

SPEC = ModelSpec(version_pk=1, model="-Odd name", version="1.0.0", files=("/nowhere/a.gguf", "/nowhere/b.gguf"))
STUB = (sys.executable, "-m", "tests.stub_worker")


class Started:
    """A worker, and what it has posted so far."""

    def __init__(self, directory: Path, *command: str, spec: ModelSpec = SPEC) -> None:
        self.events: list[Event] = []
        self.forwarded: list[bytes] = []
        self.reports: list[CacheReport] = []
        self.socket = directory / "w.sock"
        self._posted = asyncio.Condition()
        launch = Launch(
            command=command,
            directory=PROJECT_ROOT,
            environment=worker_environment(os.environ),
            log_level="INFO",
            forward=self.forwarded.append,
        )
        self.worker = Worker(1, spec, self.socket, directory / "kv", launch, self._post, self._report)

    def _post(self, event: Event) -> None:
        self.events.append(event)
        self._wake = asyncio.ensure_future(self._notify())

    def _report(self, report: CacheReport) -> None:
        self.reports.append(report)
        self._wake = asyncio.ensure_future(self._notify())

    async def until_reported(self, budget_bytes: int) -> CacheReport:
        """The first report under this budget."""

        def found() -> CacheReport | None:
            return next((report for report in self.reports if report.ram.budget_bytes == budget_bytes), None)

        async with asyncio.timeout(20), self._posted:
            await self._posted.wait_for(lambda: found() is not None)
        match = found()
        assert match is not None
        return match

    async def _notify(self) -> None:
        async with self._posted:
            self._posted.notify_all()

    async def until(self, event: Event | type[Event]) -> Event:
        def found() -> Event | None:
            matches = (e for e in self.events if e == event or (isinstance(event, type) and isinstance(e, event)))
            return next(matches, None)

        async with asyncio.timeout(20), self._posted:
            await self._posted.wait_for(lambda: found() is not None)
        match = found()
        assert match is not None
        return match

    async def until_last_is(self, event: Event) -> None:
        async with asyncio.timeout(20), self._posted:
            await self._posted.wait_for(lambda: self.events[-1] == event)

    async def until_ready(self) -> None:
        while not any(isinstance(e, WorkerReported) and e.status.stage is WorkerStage.READY for e in self.events):
            async with asyncio.timeout(20), self._posted:
                await self._posted.wait()

    async def exit_reason(self) -> str:
        event = await self.until(WorkerExited)
        assert isinstance(event, WorkerExited) and event is self.events[-1]
        return event.reason

    @property
    def pid(self) -> int:
        return next(event.pid for event in self.events if isinstance(event, WorkerSpawned))


async def test_a_worker_is_spawned_reports_and_is_told_to_exit(tmp_path: Path) -> None:
    started = Started(tmp_path, *STUB)
    await started.until_ready()
    assert started.socket.exists()
    started.worker.stop(kill=False)
    assert await started.exit_reason() == "it exited by itself"
    assert not started.socket.exists()
    with pytest.raises(ProcessLookupError):  # it was reaped
        os.kill(started.pid, 0)


async def test_a_worker_that_stands_still_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "ASK_SECONDS", 0.05)
    monkeypatch.setattr(liveness, "HELLO_SECONDS", 0.2)
    started = Started(tmp_path, *STUB)
    await started.until_ready()
    os.kill(started.pid, signal.SIGSTOP)
    assert "it stood still" in await started.exit_reason()


async def test_a_worker_whose_computing_hangs_in_llama_cpp_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "ASK_SECONDS", 0.05)
    monkeypatch.setattr(liveness, "HELLO_SECONDS", 0.2)
    file = write_model(tmp_path / "tiny.gguf")
    spec = ModelSpec(version_pk=1, model="tiny", version="1.0.0", files=(str(file),))
    started = Started(tmp_path, sys.executable, "-m", "tests.stuck_engine", spec=spec)
    await started.until_ready()
    _, writer = await asyncio.open_unix_connection(started.socket)
    writer.write(encode_frame([Generate(id=1, request_id="r", text="hello " * 10)]))
    assert "it stood still" in await started.exit_reason()
    writer.close()


async def test_a_worker_that_only_once_did_not_greet_lives_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "ASK_SECONDS", 0.0)
    greetings = iter([False, True, False, True, False, False])
    asked = []

    async def greets(socket: Path) -> bool:
        asked.append(socket)
        return next(greetings)

    monkeypatch.setattr(liveness, "_greets", greets)
    missed: list[int] = []
    await liveness.stands_still(tmp_path, missed.append)
    assert len(asked) == 6
    assert missed == [1, 0, 1, 0, 1, 2]


async def test_a_worker_has_a_session_of_its_own(tmp_path: Path) -> None:
    started = Started(tmp_path, *STUB)
    await started.until_ready()
    assert os.getsid(started.pid) == started.pid
    started.worker.stop(kill=True)
    await started.exit_reason()


async def test_a_command_that_can_not_be_run_is_an_exit_with_the_reason(tmp_path: Path) -> None:
    started = Started(tmp_path, "/nowhere/python")
    reason = await started.exit_reason()
    assert reason.startswith("it could not be started: ") and "/nowhere/python" in reason


async def test_a_worker_that_is_stopped_before_it_started_never_starts(tmp_path: Path) -> None:
    started = Started(tmp_path, *STUB)
    started.worker.stop(kill=False)
    assert await started.exit_reason() == "it was stopped before it started"
    assert len(started.events) == 1


async def test_a_stop_after_the_exit_does_nothing(tmp_path: Path) -> None:
    started = Started(tmp_path, sys.executable, "-c", "")
    await started.exit_reason()
    started.worker.stop(kill=True)


async def test_how_many_requests_it_has_is_known_from_the_worker_itself(tmp_path: Path) -> None:
    started = Started(tmp_path, *STUB, "--hang-after", "1")
    await started.until_ready()
    await started.until(WorkerBusy(1, 0))
    _, writer = await asyncio.open_unix_connection(started.socket)
    writer.write(encode_frame([Generate(id=number, request_id="r", text="go") for number in (1, 2)]))
    await started.until(WorkerBusy(1, 2))
    writer.close()  # the client has left
    await started.until_last_is(WorkerBusy(1, 0))
    started.worker.stop(kill=True)
    assert "SIGKILL" in await started.exit_reason()


def budget(ram_bytes: int) -> CacheBudget:
    return CacheBudget(ram_bytes=ram_bytes, ssd_bytes=0)


async def test_a_worker_is_told_its_budget_as_soon_as_it_is_there_and_every_newer_one(tmp_path: Path) -> None:
    started = Started(tmp_path, *STUB)
    started.worker.set_budget(budget(1_000))  # before the process is
    assert (await started.until_reported(1_000)).ram.enabled
    started.worker.set_budget(budget(2_000))
    await started.until_reported(2_000)
    started.worker.stop(kill=True)
    await started.exit_reason()


async def test_a_worker_that_never_reads_holds_up_nobody(tmp_path: Path) -> None:
    started = Started(tmp_path, *STUB, "--deaf")
    await started.until_ready()
    for ram_bytes in range(10_000):  # a pipe holds some hundred of these
        started.worker.set_budget(budget(ram_bytes))
    started.worker.stop(kill=False)
    assert await started.exit_reason() == "it exited by itself"


async def test_a_worker_that_reads_late_gets_the_newest_budget_last(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    started = Started(tmp_path, *STUB, "--load-gate", str(gate))
    await started.until(WorkerSpawned)
    for ram_bytes in range(10_000):
        started.worker.set_budget(budget(ram_bytes))
    with gate.open("wb"):
        await started.until_reported(9_999)
    assert started.reports[-1].ram.budget_bytes == 9_999
    started.worker.stop(kill=True)
    await started.exit_reason()


async def test_a_budget_for_a_worker_that_is_gone_goes_nowhere(tmp_path: Path) -> None:
    started = Started(tmp_path, sys.executable, "-c", "")
    await started.exit_reason()
    started.worker.set_budget(budget(1))


async def test_what_it_holds_is_known_from_its_standard_output(tmp_path: Path) -> None:
    script = """import sys; print('{"type":"cache","prompt_tokens":7}'); print('{"type":"else"}')"""
    started = Started(tmp_path, sys.executable, "-c", script)
    await started.exit_reason()
    assert started.reports == [CacheReport(prompt_tokens=7)]


async def test_log_lines_pass_as_they_are_and_the_rest_explains_a_crash(tmp_path: Path) -> None:
    line = b'{"module": "engine", "message": "hello"}'
    script = (
        "import os, sys\n"
        f"os.write(2, {line!r} + b'\\n[1, 2]\\n{{broken\\n')\n"
        "os.write(2, b'last \\xff words')\n"
        "sys.exit(3)\n"
    )
    started = Started(tmp_path, sys.executable, "-c", script)
    assert (
        await started.exit_reason() == "it exited with status 3; its last words: last \N{REPLACEMENT CHARACTER} words"
    )
    assert started.forwarded == [line]


async def test_a_flood_without_a_newline_is_cut_not_collected(tmp_path: Path) -> None:
    script = "import os\nfor _ in range(64): os.write(2, b'x' * 65536)\nos.write(2, b'\\nthe end\\n'); os._exit(1)"
    started = Started(tmp_path, sys.executable, "-c", script)
    assert "the end" in await started.exit_reason()


async def test_a_grandchild_that_keeps_the_pipes_open_does_not_hide_the_exit(tmp_path: Path) -> None:
    script = "import os, subprocess, sys; print(subprocess.Popen(['sleep', '60']).pid, file=sys.stderr); os._exit(4)"
    started = Started(tmp_path, sys.executable, "-c", script)
    reason = await started.exit_reason()
    assert reason.startswith("it exited with status 4")
    os.kill(int(reason.split()[-1]), signal.SIGKILL)


@pytest.mark.parametrize(
    ("returncode", "last_lines", "reason"),
    [
        (0, [], "it exited by itself"),
        (1, [], "it exited with status 1"),
        (1, ["first", "last"], "it exited with status 1; its last words: last"),
        (-9, [], "it was killed by SIGKILL, perhaps because memory ran out"),
        (-11, [], "it was killed by SIGSEGV"),
        (-63, [], "it was killed by signal 63"),
    ],
)
def test_an_exit_is_explained(returncode: int, last_lines: list[str], reason: str) -> None:
    assert explain(returncode, last_lines) == reason


def test_workers_get_what_computing_needs_and_no_secret() -> None:
    given = {
        "PATH": "/bin",
        "OMP_NUM_THREADS": "4",
        "CUDA_VISIBLE_DEVICES": "0",
        "DATABASE_URL": "postgresql://u:secret@h/d",
        "NOPENAI_ADMIN_PASSWORD": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "SOMETHING_NEW": "secret",
    }
    got = worker_environment(given)
    assert "secret" not in " ".join(got.values())
    assert (got["PATH"], got["OMP_NUM_THREADS"], got["CUDA_VISIBLE_DEVICES"]) == ("/bin", "4", "0")
    assert got["GGML_NO_BACKTRACE"] == "1"
    assert "OMP_WAIT_POLICY" not in got
