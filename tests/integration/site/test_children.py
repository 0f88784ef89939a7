"""One child process: listened to, started again, stopped, and never left behind."""

import asyncio
import io
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from nopenai_site import logs
from nopenai_site.up.child import ChildSpec, spawn
from nopenai_site.up.journal import Journal
from nopenai_site.up.keeper import Keeper, NeverReady
from nopenai_site.up.readiness import accepts
from tests.waiting import until, wait_until

# Prints that it runs, and does so until it is killed, whatever else it is asked.
_DEAF = """
import signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("running", flush=True)
while True: signal.pause()
"""


def _spec(code: str, **more: object) -> ChildSpec:
    return ChildSpec(
        name="child",
        command=(sys.executable, "-c", code),
        environment={"PYTHONPATH": str(Path.cwd())},
        **more,  # type: ignore[arg-type]
    )


class _Collected:
    def __init__(self) -> None:
        self.text = ""
        self._arrived = asyncio.Event()

    def __call__(self, raw: bytes) -> None:
        self.text += raw.decode() + "\n"
        self._arrived.set()

    async def contains(self, part: str) -> None:
        async with asyncio.timeout(20):
            while part not in self.text:
                await self._arrived.wait()
                self._arrived.clear()


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path, level="DEBUG", stream=io.StringIO())


@pytest.fixture
async def kept(journal: Journal) -> AsyncIterator[Callable[[ChildSpec], Keeper]]:
    """Starts keepers; their children are stopped at the end."""
    running: list[tuple[Keeper, asyncio.Task[None]]] = []

    def keep(spec: ChildSpec) -> Keeper:
        keeper = Keeper(spec, journal, lowest="DEBUG")
        running.append((keeper, asyncio.create_task(keeper.keep())))
        return keeper

    yield keep
    hurry = asyncio.Event()
    hurry.set()
    for keeper, task in running:
        await keeper.stop(hurry=hurry)
        await asyncio.wait([task])


async def test_what_it_prints_arrives_as_log_lines_also_without_a_last_newline() -> None:
    collected = _Collected()
    child = await spawn(_spec("print('one\\ntwo', end='')"), lowest="INFO", write=collected)
    await child.output_ended.wait()
    await child.exited.wait()
    assert [part in collected.text for part in ('"message":"one"', '"message":"two"')] == [True, True]
    assert child.describe_exit() == "exited with status 0"


async def test_a_line_without_end_does_not_fill_our_memory() -> None:
    collected = _Collected()
    child = await spawn(_spec("print('x' * 3_000_000)"), lowest="INFO", write=collected)
    await child.output_ended.wait()
    assert collected.text.count("\n") > 1


async def test_a_child_that_ignores_the_polite_signal_is_killed_after_its_deadline() -> None:
    collected = _Collected()
    spec = _spec(_DEAF, stop=((signal.SIGTERM, 0.2), (signal.SIGKILL, 10.0)))
    child = await spawn(spec, lowest="INFO", write=collected)
    await collected.contains("running")
    await child.stop(hurry=asyncio.Event())
    assert child.describe_exit() == "was killed by SIGKILL"


async def test_a_hurry_does_not_wait_for_the_deadline() -> None:
    collected = _Collected()
    child = await spawn(
        _spec(_DEAF, stop=((signal.SIGTERM, 600.0), (signal.SIGKILL, 10.0))), lowest="INFO", write=collected
    )
    await collected.contains("running")
    hurry = asyncio.Event()
    stopping = asyncio.create_task(child.stop(hurry=hurry))
    hurry.set()
    async with asyncio.timeout(20):
        await stopping
    assert child.exited.is_set()


async def test_what_a_dead_child_started_in_its_group_goes_with_it() -> None:
    collected = _Collected()
    code = "import subprocess, os; print(subprocess.Popen(['sleep', '1000']).pid, flush=True); os.abort()"
    child = await spawn(_spec(code), lowest="INFO", write=collected)
    await child.exited.wait()
    await child.output_ended.wait()
    grandchild = int(collected.text.split('"message":"')[1].split('"')[0])
    wait_until(
        lambda: (
            not Path(f"/proc/{grandchild}/cmdline").exists() or not Path(f"/proc/{grandchild}/cmdline").read_bytes()
        ),
        10,
    )


async def test_a_killed_child_is_started_again_and_this_is_logged(
    kept: Callable[[ChildSpec], Keeper], journal: Journal
) -> None:
    keeper = kept(_spec(_DEAF))
    await keeper.ready.wait()
    first = keeper.child
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    await until(lambda: keeper.child is not first)
    assert "child was killed by SIGKILL; starting it again" in journal.path.read_text()


async def test_it_is_ready_when_it_accepts_and_not_before(kept: Callable[[ChildSpec], Keeper], tmp_path: Path) -> None:
    path, go = tmp_path / "s", tmp_path / "go"
    os.mkfifo(go)  # the child waits until somebody opens it for writing
    code = f"""
import socket
open({str(go)!r}).close()
s = socket.socket(socket.AF_UNIX); s.bind({str(path)!r}); s.listen()
while True: s.accept()
"""
    keeper = kept(_spec(code, ready=accepts(path)))
    await until(lambda: keeper.child is not None)
    assert not keeper.ready.is_set()
    go.write_bytes(b"")
    async with asyncio.timeout(20):
        await keeper.ready.wait()


async def test_a_child_that_never_gets_ready_is_given_up_with_its_last_words(journal: Journal, tmp_path: Path) -> None:
    keeper = Keeper(_spec("raise SystemExit('no such file')", ready=accepts(tmp_path / "s")), journal, lowest="INFO")
    with pytest.raises(NeverReady, match=r"child exited with status 1 3 times in a row") as refusal:
        await keeper.keep()
    assert "no such file" in str(refusal.value)


def test_a_child_dies_with_whoever_started_it(tmp_path: Path) -> None:
    code = """
import asyncio, sys
from nopenai_site.up.child import ChildSpec, spawn
async def main():
    child = await spawn(ChildSpec(name="c", command=("/bin/sleep", "1000"), environment={}), lowest="INFO", write=print)
    print(child.pid, flush=True)
    await child.exited.wait()
asyncio.run(main())
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert _runs(child)
    parent.kill()
    parent.wait()
    wait_until(lambda: not _runs(child), 10)
    parent.stdout.close()


def test_the_log_is_rotated_by_its_only_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nopenai_site.up.journal.MAX_BYTES", 2000)
    journal = Journal(tmp_path, level="INFO", stream=io.StringIO())
    written = [logs.line("INFO", "gateway", f"line {number}") for number in range(40)]
    for raw in written:
        journal.write(raw)
    journal.close()
    files = sorted(tmp_path.glob("server.log*"), key=lambda path: path.name, reverse=True)
    assert len(files) > 1
    assert b"".join(path.read_bytes() for path in files).splitlines() == written


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""  # a zombie's is empty
    except OSError:
        return False
