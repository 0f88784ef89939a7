"""Blocks in one directory, never more bytes than the budget: synchronous, for one thread.

The budget covers every byte in the directory at every moment, the file that is being written included: room is made
*before* a write, by deleting what goes first. It holds across restarts since the directory is scanned before anything
is written, and the last uses come back from the files' modification times (uses are counted anew).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog

from inference.engine.cache.events import DiskEvent, DiskEventKind
from inference.engine.cache.files import LARGEST_FILE_BYTES, OVERHEAD_BYTES, DamagedBlock, Format, Label
from inference.engine.cache.folder import LEDGER_BYTES, Folder
from inference.engine.cache.index import Held, Index
from inference.engine.cache.pacing import decode, encode
from inference.engine.cache.state import Bytes

log = structlog.get_logger(module="cache")


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskBudget:
    bytes: int
    """Of files, headers included. 0: nothing is kept."""
    bytes_per_second: int
    bytes_per_day: int
    """A day of UTC."""
    least_frequently_used_first: bool = False


class Store:
    """Any OSError that escapes means that the directory is not as we believe it to be: write nothing more, and open it
    anew. Until then reading goes on, and what can't be read is dropped."""

    def __init__(
        self, directory: Path, format: Format, budget: DiskBudget, on_event: Callable[[DiskEvent], None]
    ) -> None:
        """Raises:
        OSError: the directory can't be used.
        """
        self._format = format
        self._budget = budget
        self._on_event = on_event
        self._buffer = bytearray()
        self._unsaved: set[bytes] = set()
        self._undeleted_bytes = 0
        """Of files that should be gone but could not be deleted: they count until the directory is opened anew."""
        self.index = Index(least_frequently_used_first=budget.least_frequently_used_first)
        self._folder = Folder(directory, format)
        try:
            for found in sorted(self._folder.scan(), key=lambda found: found.used_at):
                self._adopt(Held(found.label, found.size, found.used_at))
            self._written = decode(self._folder.read_ledger())
            self._make_room(0)
        except OSError:
            self._folder.close()
            raise

    def set_budget(self, budget: DiskBudget) -> None:
        self._budget = budget
        self.index.rank_by(least_frequently_used_first=budget.least_frequently_used_first)
        self._make_room(0)

    def write(self, label: Label, payload: Bytes, key: bytes, now: float) -> str:
        """Keep the block. Returns why it is not kept; empty if it is."""
        if self.index.holds(label.block.name):
            return ""  # it was offered again while it was written
        size = payload.nbytes + OVERHEAD_BYTES
        if size + LEDGER_BYTES > self._budget.bytes:
            return "the block is larger than the budget"
        if size > LARGEST_FILE_BYTES:
            return "the block is larger than a file may be"
        written = self._written.plus(size, self._budget.bytes_per_day, now)
        if written is None:
            return "the day's budget of bytes to write is spent"
        self._make_room(size)
        file = self._view(size)
        self._format.seal(label, payload, key, file)
        # Before the write, so that no kill makes us forget what was written.
        self._written = written
        self._folder.write_ledger(encode(written))
        try:
            self._folder.write(label, file, now)
        except DamagedBlock as fault:  # of this one: others can be written
            return str(fault)
        self.index.add(Held(label, size, now))
        self._on_event(DiskEvent(kind=DiskEventKind.STORED, name=label.block.name, bytes=size))
        return ""

    def read(self, name: bytes, key: bytes) -> Bytes | None:
        """The block's payload. What can't be read or does not verify is deleted."""
        held = self.index.get(name)
        if held is None:
            return None
        file = self._view(held.size)
        try:
            self._folder.read(held.label, file)
            return self._format.unseal(held.label, file, key)
        except (OSError, DamagedBlock) as fault:
            log.warning("Cached block dropped: it can't be read", block=name.hex(), reason=str(fault))
            self._remove(held, DiskEventKind.DAMAGED, str(fault))
            return None

    def touch(self, names: Iterable[bytes], now: float) -> None:
        """These blocks were used; the last one counts as used last."""
        self._unsaved.update(name for name in names if self.index.touch(name, now) is not None)

    @property
    def has_unsaved_uses(self) -> bool:
        return bool(self._unsaved)

    def save_uses(self) -> None:
        """Write the last uses to the files' modification times. A kill loses those since the last call."""
        while self._unsaved:
            held = self.index.get(self._unsaved.pop())
            if held is not None:
                self._folder.set_used_at(held.label, held.used_at)

    def close(self) -> None:
        """Give the directory back."""
        try:
            self.save_uses()
        finally:
            self._folder.close()

    def _adopt(self, held: Held) -> None:
        if self.index.holds(held.label.block.name):
            self._folder.remove(held.label)  # the same block under another parent: one of the two is forged
        else:
            self.index.add(held)

    def _make_room(self, size: int) -> None:
        room = self._budget.bytes - LEDGER_BYTES - size
        while self.index.bytes + self._undeleted_bytes > room and (held := self.index.first_to_go()):
            self._remove(held, DiskEventKind.EVICTED, "")

    def _remove(self, held: Held, kind: DiskEventKind, reason: str) -> None:
        self.index.remove(held.label.block.name)
        self._undeleted_bytes += held.size
        self._folder.remove(held.label)
        self._undeleted_bytes -= held.size
        self._on_event(DiskEvent(kind=kind, name=held.label.block.name, bytes=held.size, reason=reason))

    def _view(self, size: int) -> memoryview:
        """A part of the one buffer in which files are made and read."""
        if len(self._buffer) < size:
            self._buffer = bytearray(size)
        return memoryview(self._buffer)[:size]
