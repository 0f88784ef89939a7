"""What the supervisor is told again and again: the newest of each kind, whenever it reads.

A supervisor that is behind with reading must not stop the worker's loop, and what it then reads must be the newest: a
report of the cache also confirms the budget that it was told, so none may be lost for good.
"""

import asyncio
import select
import sys

import msgspec

from inference.protocol import CacheReport, WorkerCounts, WorkerToSupervisor


def say(message: WorkerToSupervisor) -> None:
    """One line on standard output, by the loop's thread only; waits if the pipe is full."""
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


class News:
    """Create it inside the running loop, which all calls must come from."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._unsaid: dict[type, CacheReport | WorkerCounts] = {}
        self._watching = False

    def say(self, message: CacheReport | WorkerCounts) -> None:
        """Now if there is room, else as soon as there is, unless a newer one of its kind has come by then."""
        self._unsaid[type(message)] = message
        self._flush()

    def _flush(self) -> None:
        # Writable means room for PIPE_BUF bytes (4,096), and a line is shorter.
        while self._unsaid and _writable():
            say(self._unsaid.pop(next(iter(self._unsaid))))
        if bool(self._unsaid) != self._watching:
            self._watching = bool(self._unsaid)
            if self._watching:
                self._loop.add_writer(sys.stdout.fileno(), self._flush)
            else:
                self._loop.remove_writer(sys.stdout.fileno())


def _writable() -> bool:
    return bool(select.select([], [sys.stdout], [], 0)[1])
