"""What is asked of the SSD tier's thread, and the order in which it gets to it.

Uses first (they cost nothing and decide what goes next), then fetches, since a request waits for them, then a new
budget, then writes, oldest first, as the rate allows, then what can be done when nothing else is.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from inference.engine.cache.files import OVERHEAD_BYTES, Label
from inference.engine.cache.state import Bytes
from inference.engine.cache.store import DiskBudget


@dataclass(frozen=True, slots=True)
class Uses:
    names: list[bytes]
    """In the order in which they were used."""


@dataclass(frozen=True, slots=True, eq=False)
class Fetch:
    wanted: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    """Names and their keys."""
    done: Callable[[list[tuple[bytes, Bytes]]], None]


@dataclass(frozen=True, slots=True, eq=False)
class Write:
    label: Label
    payload: Bytes = field(repr=False)
    key: bytes = field(repr=False)

    @property
    def name(self) -> bytes:
        return self.label.block.name

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.payload.nbytes + OVERHEAD_BYTES


class Chore(Enum):
    """Due now, and nothing else is to be done."""

    SAVE_USES = "save uses"


Task = Uses | Fetch | DiskBudget | Write | Chore


class Mailbox:
    """Filled by any thread, emptied by one."""

    def __init__(self, limit_bytes: int) -> None:
        """Writes of more than ``limit_bytes`` together don't wait."""
        self._limit_bytes = limit_bytes
        self._changed = threading.Condition()
        self._uses: list[bytes] = []
        self._fetches: deque[Fetch] = deque()
        self._budget: DiskBudget | None = None
        self._writes: dict[bytes, Write] = {}
        """By name, oldest first. One that was taken stays until it is finished."""
        self._write_bytes = 0
        self._busy = False
        self._closed = False

    def use(self, names: Sequence[bytes]) -> None:
        with self._changed:
            if not self._uses:
                self._changed.notify_all()
            self._uses += names

    def fetch(self, fetch: Fetch) -> bool:
        """False: closed, it is for the caller to answer."""
        with self._changed:
            if not self._closed:
                self._fetches.append(fetch)
                self._changed.notify_all()
            return not self._closed

    def set_budget(self, budget: DiskBudget) -> None:
        with self._changed:
            self._budget = budget
            self._changed.notify_all()

    def write(self, write: Write) -> bool:
        """False: too much waits already. A block that waits already is not added again."""
        with self._changed:
            if self._closed or write.name in self._writes:
                return True
            if self._write_bytes + write.size > self._limit_bytes:
                return False
            self._writes[write.name] = write
            self._write_bytes += write.size
            self._changed.notify_all()
            return True

    def wait_idle(self, timeout: float) -> bool:
        """Wait until nothing is left to do. False: not within ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(self._is_idle, timeout)

    def close(self) -> None:
        """Nothing more is taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # --- The thread that empties it ----------------------------------------------------------------------------------

    def take(
        self, seconds_until_write: Callable[[], float], seconds_until_chore: Callable[[], float | None]
    ) -> Task | None:
        """Wait for the next task. It is in work until the next call. None: closed.

        The two functions say how long a write must wait, and when the next chore is due (None: there is none).
        """
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            while not self._closed:
                wait_seconds = seconds_until_write() if self._writes else None
                chore_seconds = seconds_until_chore()
                task = self._next(wait_seconds, chore_seconds)
                if task is not None:
                    self._busy = True
                    return task
                self._changed.wait(min(filter(None, (wait_seconds, chore_seconds)), default=None))
        return None

    def finish(self, write: Write) -> None:
        """It is written or dropped; its payload is let go."""
        with self._changed:
            if self._writes.pop(write.name, None) is not None:
                self._write_bytes -= write.size

    def waiting_writes(self) -> list[Write]:
        with self._changed:
            return list(self._writes.values())

    def unanswered(self) -> list[Fetch]:
        """After closing: the fetches that were never taken."""
        return list(self._fetches)

    def _next(self, write_seconds: float | None, chore_seconds: float | None) -> Task | None:
        if self._uses:
            names, self._uses = self._uses, []
            return Uses(names)
        if self._fetches:
            return self._fetches.popleft()
        if self._budget is not None:
            budget, self._budget = self._budget, None
            return budget
        if write_seconds is not None and write_seconds <= 0:
            return next(iter(self._writes.values()))
        if chore_seconds is not None and chore_seconds <= 0:
            return Chore.SAVE_USES
        return None

    def _is_idle(self) -> bool:
        return not (self._busy or self._uses or self._fetches or self._budget or self._writes)
