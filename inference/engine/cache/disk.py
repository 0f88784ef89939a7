"""The SSD tier: blocks of KV in files that outlive the worker, written and read by a thread of their own.

files.py    one block's file: name, layout, encryption
folder.py   the directory: its lock, all of its system calls
index.py    what is held, who goes first
pacing.py   the rate and the day's budget of bytes to write
store.py    these together, synchronous: blocks within a budget
mailbox.py  what is asked of the thread, and in which order it gets to it
events.py   what happens, counted and told
outage.py   how long nothing is written after a fault
disk.py     the thread

One thread, so that one owner changes the index and the directory. A fetch goes before all writes that wait, so it waits
for the one in work at most.

Measured (2 cores, others at work on them, blocks of 1.5 MB, whose 64 tokens take 225 ms to compute): ``put`` 0.07 ms
in the caller's thread; a write 0.8 ms on tmpfs and 1–4 ms on ext4; a fetch of 16 blocks 8–15 ms out of the page cache,
30 ms out of the disk; opening 0.1 s for 10,000 blocks.

**When the disk fails** (full, read-only, I/O errors, gone; or another worker has the directory): nothing is written,
``report`` says so with the reason, and the blocks that wait are dropped. What can be read is still served. The first
block that is offered after the back-off (5 s, doubled up to 5 min) opens the directory anew, scan and all, and is
written; if that succeeds, the tier is on again. There is one way back, whatever had happened.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import structlog

from inference.engine.cache.events import DiskEvent, DiskEventKind, Events, call
from inference.engine.cache.files import Format, Label, partition_digest
from inference.engine.cache.mailbox import Chore, Fetch, Mailbox, Task, Uses, Write
from inference.engine.cache.names import BlockId
from inference.engine.cache.outage import Outage, after
from inference.engine.cache.pacing import TokenBucket
from inference.engine.cache.state import Bytes
from inference.engine.cache.store import DiskBudget, Store
from inference.protocol import TierReport

__all__ = ["DiskBudget", "DiskEvent", "DiskEventKind", "DiskTier"]

log = structlog.get_logger(module="cache")

QUEUE_BYTES = 128 * 1024 * 1024
"""Payloads that wait to be written stay in memory: so many bytes at most, maybe beyond the RAM tier's budget."""

_SAVE_USES_SECONDS = 30.0
_JOIN_SECONDS = 10.0


class DiskTier:
    """Every method may be called by any thread, and returns at once but for the constructor, ``drain`` and ``close``.

    ``on_event`` and the ``done`` of a fetch are called by the tier's thread (``on_event`` also by the one that calls
    ``put`` or the constructor): they should only pass on what they are told. When ``on_event`` is called, ``report``
    knows of the event already.
    """

    def __init__(
        self,
        directory: Path,
        *,
        compatibility: bytes,
        budget: DiskBudget,
        on_event: Callable[[DiskEvent], None],
        clock: Callable[[], float] = time.time,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        """Open the directory (0.1 s for 10,000 blocks). A bad disk raises nothing: the tier is then off.

        ``clock`` gives seconds since the epoch.
        """
        self._directory = directory
        self._format = Format(compatibility)
        self._budget = budget
        self._events = Events(on_event)
        self._clock = clock
        self._mailbox = Mailbox(queue_bytes)
        self._bucket = TokenBucket(budget.bytes_per_second, time.monotonic())
        self._uses_saved_at = time.monotonic()

        # Changed by the tier's thread only; others read each once.
        self._store: Store | None = None
        self._outage: Outage | None = None
        if budget.bytes > 0 or directory.exists():
            try:
                self._open()
            except OSError as fault:
                self._fail(fault)
        self._report = self._make_report()
        self._events.tell()
        self._thread = threading.Thread(target=self._run, name="ssd-cache", daemon=True)
        self._thread.start()

    # --- Any thread --------------------------------------------------------------------------------------------------

    def holds(self, name: bytes) -> bool:
        """The block is on disk. What waits to be written is not, yet."""
        store = self._store
        return store is not None and store.index.holds(name)

    def bytes_of(self, names: Iterable[bytes]) -> int:
        """Of the files of those that are on disk."""
        store = self._store
        return sum(held.size for name in names if (held := store.index.get(name))) if store is not None else 0

    def tail_sizes(self, parent: bytes) -> Sequence[int]:
        """Token counts, below 64, of the tails on disk that follow ``parent``, descending."""
        store = self._store
        return store.index.tail_sizes(parent) if store is not None else ()

    def put(self, block: BlockId, payload: Bytes, key: bytes, partition: str) -> None:
        """Write the block soon, or drop it, which is counted. ``payload`` must not change until then.

        Where the queue is full it is the newest that is dropped: the others are nearer to the beginning of a chain.
        """
        if self._budget.bytes <= 0:
            return
        if self.holds(block.name):
            self.touch([block.name])
            return
        write = Write(Label(block, partition_digest(partition)), np.ascontiguousarray(payload), key)
        outage = self._outage
        if outage is not None and not outage.is_over(self._clock()):
            reason = outage.reason
        elif self._budget.bytes_per_second <= 0:
            reason = "the rate of writing is 0"
        elif not self._mailbox.write(write):
            reason = "too many blocks wait to be written"
        else:
            return
        self._events.tell_now(_dropped(write, reason))

    def touch(self, names: Sequence[bytes]) -> None:
        """These blocks of one chain, from its root on, were used without being fetched: RAM had them."""
        self._mailbox.use(_leaf_first(names))

    def fetch(
        self,
        names: Sequence[bytes],
        keys: Mapping[bytes, bytes],
        done: Callable[[list[tuple[bytes, Bytes]]], None],
    ) -> None:
        """Call ``done``, once, with the payloads of the leading ``names`` that are there and intact.

        They are all in memory then, so ask for no more than there is room for. A disk that hangs delays ``done`` as
        long: who can't wait must have a deadline.
        """
        if not self._mailbox.fetch(Fetch(tuple((name, keys[name]) for name in names), done)):
            done([])

    def set_budget(self, budget: DiskBudget) -> None:
        """In force before anything else is written."""
        self._budget = budget
        self._mailbox.set_budget(budget)

    def report(self) -> TierReport:
        return msgspec.structs.replace(self._report, dropped_blocks=self._events.dropped)

    @property
    def written_bytes(self) -> int:
        """Since the tier was made."""
        return self._events.written_bytes

    def drain(self, timeout: float) -> bool:
        """Wait until all that was asked for is done: every block written, or dropped. False: not within ``timeout``
        seconds."""
        return self._mailbox.wait_idle(timeout)

    def close(self) -> None:
        """Stop after what is in work now; blocks that wait are not written (see :meth:`drain`)."""
        self._mailbox.close()
        self._thread.join(_JOIN_SECONDS)

    # --- The tier's thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (task := self._mailbox.take(self._seconds_until_write, self._seconds_until_save)) is not None:
            try:
                self._do(task)
            except OSError as fault:
                self._fail(fault)
            except Exception:  # a fault of ours: it must not take the tier with it
                log.exception("The SSD cache's thread met an error", task=type(task).__name__)
            if isinstance(task, Write):
                self._mailbox.finish(task)
            self._report = self._make_report()
            self._events.tell()
        self._stop()

    def _do(self, task: Task) -> None:
        match task:
            case Write():
                self._write(task)
            case Fetch():
                self._fetch(task)
            case DiskBudget():
                self._apply(task)
            case Uses():
                if self._store is not None:
                    self._store.touch(task.names, self._clock())
            case Chore.SAVE_USES:
                self._uses_saved_at = time.monotonic()
                if self._store is not None:
                    self._store.save_uses()

    def _write(self, write: Write) -> None:
        if self._store is None or self._outage is not None:
            self._open()
        assert self._store is not None
        reason = self._store.write(write.label, write.payload, write.key, self._clock())
        if reason:
            self._events.note(_dropped(write, reason))
            return
        self._bucket.take(write.size)
        if self._outage is not None:
            log.info("SSD cache is on again", attempts=self._outage.attempts)
            self._outage = None
            self._events.note(DiskEvent(kind=DiskEventKind.ON))

    def _fetch(self, fetch: Fetch) -> None:
        found: list[tuple[bytes, Bytes]] = []
        try:
            for name, key in fetch.wanted:
                payload = self._store.read(name, key) if self._store is not None else None
                if payload is None:
                    break
                found.append((name, payload))
            if self._store is not None:
                self._store.touch(_leaf_first([name for name, _ in found]), self._clock())
        finally:
            call(fetch.done, found)

    def _apply(self, budget: DiskBudget) -> None:
        self._bucket.set_rate(budget.bytes_per_second, time.monotonic())
        if budget.bytes <= 0 or budget.bytes_per_second <= 0:
            self._drop_waiting("the budget was set to 0")
        self._events.note(DiskEvent(kind=DiskEventKind.BUDGET))
        if self._store is not None:
            self._store.set_budget(budget)

    def _open(self) -> None:
        """Raises OSError."""
        store, self._store = self._store, None
        if store is not None:
            with suppress(OSError):  # it is given up because something failed there
                store.close()
        self._store = Store(self._directory, self._format, self._budget, self._events.note)

    def _fail(self, fault: OSError) -> None:
        first = self._outage is None
        self._outage = after(fault, self._outage, self._clock())
        if first:
            log.warning("SSD cache is off", directory=str(self._directory), reason=self._outage.reason)
            self._events.note(DiskEvent(kind=DiskEventKind.OFF, reason=self._outage.reason))
        self._drop_waiting(self._outage.reason)

    def _drop_waiting(self, reason: str) -> None:
        for write in self._mailbox.waiting_writes():
            self._mailbox.finish(write)
            self._events.note(_dropped(write, reason))

    def _seconds_until_write(self) -> float:
        return self._bucket.seconds_until_free(time.monotonic())

    def _seconds_until_save(self) -> float | None:
        if self._store is None or not self._store.has_unsaved_uses:
            return None
        return self._uses_saved_at + _SAVE_USES_SECONDS - time.monotonic()

    def _make_report(self) -> TierReport:
        index = self._store.index if self._store is not None else None
        first = index.first_to_go() if index is not None else None
        outage = self._outage.reason if self._outage is not None else ""
        reason = outage if self._budget.bytes > 0 else "its budget is 0"
        return TierReport(
            enabled=not reason,
            reason=reason,
            blocks=len(index) if index is not None else 0,
            bytes=index.bytes if index is not None else 0,
            budget_bytes=self._budget.bytes,
            evicted_blocks=self._events.evicted,
            least_recent_use=first.used_at if first is not None else None,
            least_uses=first.uses if first is not None else None,
        )

    def _stop(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            try:
                store.close()
            except OSError as fault:
                log.warning("The last uses of cached blocks could not be saved", reason=str(fault))
        self._report = self._make_report()
        for fetch in self._mailbox.unanswered():
            call(fetch.done, [])


def _dropped(write: Write, reason: str) -> DiskEvent:
    return DiskEvent(kind=DiskEventKind.DROPPED, name=write.name, bytes=write.size, reason=reason)


def _leaf_first(names: Sequence[bytes]) -> list[bytes]:
    """The end of a chain counts as used before its root, so that by LRU a chain goes from its end."""
    return list(reversed(names))
