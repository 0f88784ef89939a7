"""What a process has charged to its leases, in a file that outlives it.

A process that is killed can't tell SQL what it had spent and promised. It writes that into a file that is mapped into
memory, a store of 8 bytes each time: the kernel keeps the page whatever becomes of the process, and whoever finds the
file unlocked takes back what the leases hold beyond it (:func:`quotas.treasury.reclaim`). Only the machine's own end
loses it, and then what was leased is lost to its window.

Layout: slots of two little-endian int64: the lease's number (0: a free slot), and what is charged to it. The number is
written last, so that a slot is whole before it counts; a store of 8 aligned bytes is never seen by halves.
"""

import fcntl
import mmap
import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

from quotas.ledger import Balance

SLOTS = 1 << 17
"""Of windows that are not over, for each limit that is in use. Pages of slots that were never used take no memory."""
_SUFFIX = ".leases"


class JournalFull(Exception):
    """All slots are in use: nothing more may be leased until windows end."""


class Journal:
    """Of one process's life. Its file is locked as long as the process lives."""

    def __init__(self, directory: Path) -> None:
        """Make it. Raises OSError."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.gateway = secrets.token_hex(16)
        """The name of this life."""
        self._path = directory / f"{self.gateway}{_SUFFIX}"
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        os.ftruncate(self._file, 16 * SLOTS)
        self._map = mmap.mmap(self._file, 16 * SLOTS)
        self._words = memoryview(self._map).cast("q")
        self._slots: dict[int, int] = {}
        """By lease, where its charge is."""
        self._free: list[int] = []
        self._unused = iter(range(1, 2 * SLOTS, 2))

    def open(self, lease: int) -> None:
        """Nothing is charged to it yet, if it is not known.

        Raises:
            JournalFull: there is no slot for it.
        """
        if lease not in self._slots:
            slot = self._free.pop() if self._free else next(self._unused, None)
            if slot is None:
                raise JournalFull
            self._slots[lease] = slot
            self._words[slot] = 0
            self._words[slot - 1] = lease

    def charge(self, balances: Iterable[Balance]) -> None:
        """So much is spent of them and promised. (Of one whose lease is not open, nothing can be reclaimed.)"""
        words, slots = self._words, self._slots
        for balance in balances:
            if balance.lease is not None and (slot := slots.get(balance.lease)) is not None:
                words[slot] = balance.charged

    def forget(self, lease: int) -> None:
        """It is closed, and SQL knows all of it."""
        slot = self._slots.pop(lease, None)
        if slot is not None:
            self._words[slot - 1] = 0
            self._free.append(slot)

    def close(self) -> None:
        """SQL knows all: nothing is to be reclaimed."""
        self._path.unlink(missing_ok=True)
        self._words.release()
        self._map.close()
        os.close(self._file)


def reclaim_left(directory: Path, reclaim: Callable[[str, list[tuple[int, int]]], None]) -> None:
    """Have each process reclaimed that is dead: ``reclaim`` gets its name and, by lease, what it had charged. If that
    fails, it is found again."""
    for path in sorted(directory.glob(f"*{_SUFFIX}")):
        try:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:  # another one has done it
            continue
        try:
            if _locked(file):
                reclaim(path.name.removesuffix(_SUFFIX), _read(file))
                path.unlink(missing_ok=True)
        finally:
            os.close(file)


def _locked(file: int) -> bool:
    """False: its process lives, or another one is at it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(file: int) -> list[tuple[int, int]]:
    words = memoryview(os.pread(file, 16 * SLOTS, 0)).cast("q")
    return [(lease, charged) for lease, charged in zip(words[::2], words[1::2], strict=True) if lease]
