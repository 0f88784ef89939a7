"""A spare worker: a process that has imported the engine and initialised llama.cpp already, and waits for a model.

Those are more than half of the time that a small model takes to its first token. A load takes the spare there is; the
next one is started once nothing loads, so that it is in nobody's way. Without one a load starts a process of its own:
nothing depends on the spare.
"""

import asyncio
import subprocess
from collections.abc import Callable
from contextlib import suppress

import structlog

from inference.supervisor.launching import Launch, bury, exit_of, explain, spawn

log = structlog.get_logger(module="supervisor")

SPARE_BYTES = 64 * 1024**2
"""That a waiting process takes at most, of its own."""
_LEAST_SHARE = 16
"""A node with less memory than so many spares has none."""

_QUIET_SECONDS = 1.0
"""After a load, before the next spare is started: the model's first answers go first."""
_MOST_FAILURES = 3
"""In a row, after which none is tried again."""
_LAST_WORDS_BYTES = 4096


def affordable(ram_bytes: int | None) -> bool:
    """Whether a node with so much memory for models keeps a spare. None: no account is kept of it."""
    return ram_bytes is None or ram_bytes >= SPARE_BYTES * _LEAST_SHARE


class Spare:
    """Owned by the event loop, in the main thread: the spare dies with the thread that started it."""

    def __init__(self, launch: Launch | None, busy: Callable[[], bool]) -> None:
        """
        Args:
            launch: how it is started. None: there never is one.
            busy: whether models are loaded now, which a start would slow down.
        """
        self._launch = launch
        self._busy = busy
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failures = 0
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Of the process that waits. None: there is none."""
        return None if self._process is None else self._process.pid

    def take(self) -> subprocess.Popen[bytes] | None:
        """The waiting process, which is the caller's from now on. None: there is none that lives."""
        process = self._let_go()
        self.renew()
        if process is None:
            return None
        if process.poll() is not None:  # a moment ago
            bury(process)
            return None
        self._failures = 0
        return process

    def renew(self) -> None:
        """See to it that there is one, when it is quiet."""
        if self._timer is not None:
            self._timer.cancel()
        if self._launch is not None and not self._closed and self._failures < _MOST_FAILURES:
            self._timer = asyncio.get_running_loop().call_later(_QUIET_SECONDS, self._start)

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if (process := self._let_go()) is not None:
            bury(process)

    def _start(self) -> None:
        if self._process is not None or self._launch is None:
            return
        if self._busy():
            self.renew()
            return
        try:
            self._process = spawn(self._launch, *self._launch.spare)
        except OSError as fault:
            self._failed(str(fault))
            return
        log.debug("A spare worker waits", pid=self._process.pid)
        self._watch = asyncio.get_running_loop().create_task(self._wait_for_its_end(self._process))

    async def _wait_for_its_end(self, process: subprocess.Popen[bytes]) -> None:
        await exit_of(process.pid)
        self._let_go()
        last_words = _last_words(process)
        self._failed(explain(process.wait(), last_words))
        bury(process)

    def _let_go(self) -> subprocess.Popen[bytes] | None:
        process, self._process = self._process, None
        if self._watch is not None and self._watch is not asyncio.current_task():
            self._watch.cancel()
        self._watch = None
        return process

    def _failed(self, reason: str) -> None:
        self._failures += 1
        log.warning("The spare worker ended; loads start a process of their own" + self._until(), reason=reason)
        self.renew()

    def _until(self) -> str:
        return " from now on" if self._failures >= _MOST_FAILURES else " until there is another one"


def _last_words(process: subprocess.Popen[bytes]) -> list[str]:
    """What it wrote to standard error, the end of it. It has ended, so that nothing more comes."""
    assert process.stderr is not None
    with suppress(OSError, ValueError):
        return process.stderr.read().decode(errors="replace")[-_LAST_WORDS_BYTES:].strip().splitlines()
    return []
