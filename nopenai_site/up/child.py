"""One child process: started, listened to, restarted, stopped."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from nopenai_site.up import lines
from nopenai_site.up.privileges import Account, tie_to_parent

_LONGEST_LINE_BYTES = 1024 * 1024

TERMINATE: Sequence[tuple[signal.Signals, float]] = ((signal.SIGTERM, 8.0), (signal.SIGKILL, 5.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """What to start, and how it is to end."""

    name: str
    """Also the module of lines that are not of our log's form."""
    command: Sequence[str]
    environment: Mapping[str, str]
    directory: Path = Path("/")
    account: Account | None = None
    niceness: int = 0
    """0–19: how readily it leaves the processor to others. What is not inference gives way to it."""
    pass_fds: Sequence[int] = ()
    death_signal: signal.Signals = signal.SIGKILL
    """What the kernel sends it when we die."""
    stop: Sequence[tuple[signal.Signals, float]] = TERMINATE
    """Signals to stop it, each with the seconds it is given; the last must leave no choice."""
    wrap: lines.Wrap = lines.plain
    ready: Callable[[], Awaitable[bool]] | None = None
    """Whether it does its work; None: as soon as it runs."""


@dataclass(slots=True)
class Child:
    """A running process. Made by :func:`spawn`, on the main thread: the death signal is tied to the thread."""

    spec: ChildSpec
    process: subprocess.Popen[bytes]
    exited: asyncio.Event
    output_ended: asyncio.Event
    last_lines: deque[str]
    started_at: float = field(default_factory=time.monotonic)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def uptime_seconds(self) -> float:
        return time.monotonic() - self.started_at

    def describe_exit(self) -> str:
        """``exited with status 1`` or ``was killed by SIGKILL``."""
        code = self.process.returncode
        if code is None:
            return "is running"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"

    async def stop(self, *, hurry: asyncio.Event) -> None:
        """Go through the spec's signals until it has ended; with ``hurry`` set, straight to the last ones."""
        for number, patience_seconds in self.spec.stop:
            if self.exited.is_set():
                return
            self.process.send_signal(number)
            await self._ended_within(0.5 if hurry.is_set() else patience_seconds, hurry)

    async def _ended_within(self, seconds: float, hurry: asyncio.Event) -> None:
        waits = [asyncio.ensure_future(self.exited.wait())]
        if not hurry.is_set():
            waits.append(asyncio.ensure_future(hurry.wait()))
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()


async def spawn(spec: ChildSpec, *, lowest: str, write: Callable[[bytes], None]) -> Child:
    """Start ``spec`` in a session of its own; what it prints goes to ``write`` as log lines from level ``lowest``.

    Raises:
        OSError: it can't be executed.
    """
    process, output = _start(spec)
    child = Child(spec, process, asyncio.Event(), asyncio.Event(), deque(maxlen=20))
    _watch_exit(child)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: _Output(child, lowest, write), output)
    return child


def _start(spec: ChildSpec) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """The process, and the reading end of the one pipe that it prints to."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        process = subprocess.Popen(
            spec.command,
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=writing,
            cwd=spec.directory,
            env=dict(spec.environment),
            pass_fds=spec.pass_fds,
            start_new_session=True,
            preexec_fn=tie_to_parent(spec.death_signal, spec.account, niceness=spec.niceness),
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return process, os.fdopen(reading, "rb", 0)


def _watch_exit(child: Child) -> None:
    loop = asyncio.get_running_loop()
    descriptor = os.pidfd_open(child.pid)

    def on_exit() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        # While the process is unreaped its pid, and so its group's, can't be anybody else's.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.process.wait()
        child.exited.set()

    loop.add_reader(descriptor, on_exit)


class _Output(asyncio.Protocol):
    """Cuts what a child prints into lines."""

    def __init__(self, child: Child, lowest: str, write: Callable[[bytes], None]) -> None:
        self._child = child
        self._lowest = lowest
        self._write = write
        self._buffer = bytearray()
        self._tracebacks = lines.Tracebacks(child.spec.name)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        *complete, rest = bytes(self._buffer).split(b"\n") if b"\n" in data else (bytes(self._buffer),)
        if len(rest) > _LONGEST_LINE_BYTES:
            complete, rest = [*complete, rest], b""
        self._buffer[:] = rest
        for raw in complete:
            self._take(raw)

    def eof_received(self) -> None:
        self._take(bytes(self._buffer))
        self._shape(self._tracebacks.end() or b"")

    def connection_lost(self, fault: Exception | None) -> None:
        self._child.output_ended.set()

    def _take(self, raw: bytes) -> None:
        whole = self._tracebacks.feed(raw)
        if whole is not None:
            self._shape(whole)

    def _shape(self, raw: bytes) -> None:
        spec = self._child.spec
        shaped = lines.as_log_line(raw, module=spec.name, wrap=spec.wrap, lowest=self._lowest)
        if shaped is not None:
            self._child.last_lines.append(shaped.decode(errors="replace"))
            self._write(shaped)
