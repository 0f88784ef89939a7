"""The KV of running sequences, in cells, and what is kept of it beyond them: one door to contexts and block cache."""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import structlog

from inference.engine.cache.blocks import LEAST_TOKENS, BlockCache, Missing
from inference.engine.cache.checkpoints import CheckpointCache
from inference.engine.cache.compatibility import compatibility
from inference.engine.cache.disk import DiskBudget, DiskEvent, DiskTier
from inference.engine.cache.names import BLOCK_TOKENS, Chain, owners
from inference.engine.cache.ram import RamTier
from inference.engine.cache.state import Bytes, Layout, Prefix, UnknownForm
from inference.engine.contexts import Contexts
from inference.engine.sequences import Pool
from inference.engine.sequences import Sequence as Tokens
from inference.memory import give_back_freed
from inference.protocol import CacheBudget, CacheReport, Partition, TierReport

log = structlog.get_logger(module="engine")

_MUCH_FREED_BYTES = 64 * 1024 * 1024
"""Worth the time that it takes to give it back."""

Fetched = Callable[[list[tuple[bytes, Bytes]]], None]


class Kv:
    """Owned by the engine's thread, but for the callbacks, which come from the disk's."""

    def __init__(
        self, contexts: Contexts, files: Sequence[str], directory: Path | None, on_disk_event: Callable[[], None]
    ) -> None:
        """``directory``: for the SSD tier; None: there is none. ``on_disk_event``: its report has changed."""
        self._contexts = contexts
        self._directory = directory
        self._on_disk_event = on_disk_event
        self._disk: DiskTier | None = None
        self._asked_bytes = 0
        """Of what the disk was asked for: its thread reads on while a step is computed, however long that takes."""
        self._freed_bytes = 0
        """Of blocks that smaller budgets have evicted, since memory was given back last."""
        self._layout, self._refusal = _prove(contexts)
        self._compatibility = compatibility(files, contexts.build, self._layout) if self._layout else b""
        self._window_tokens = max((cache.window for cache in self._layout.caches), default=0) if self._layout else 0
        layout = self._layout or Layout(0, ())
        self._cache = (CheckpointCache if layout.checkpoint_bytes else BlockCache)(RamTier(0), layout)

    def chain(self, partition: Partition | None, shared_tokens: int) -> Chain | None:
        """The names of a request's blocks; None: nothing of it is cached."""
        if partition is None or self._layout is None:
            return None
        private, shared = owners(partition, self._compatibility)
        return Chain(private, shared, shared_tokens)

    def missing(self, chain: Chain | None, tokens: Sequence[int]) -> Missing:
        """What only the SSD has of a prompt; :meth:`fetch` brings it."""
        return Missing() if chain is None else self._cache.missing(chain, tokens)

    def fetch(self, missing: Missing, done: Fetched) -> bool:
        """``done`` is called by another thread, with what could be read, which may be nothing. False: RAM will have no
        room for it beside what others have asked for, and did not :meth:`let_go` yet."""
        assert self._disk is not None, "nothing is missing without a disk"
        missing.file_bytes = self._disk.bytes_of(missing.names)
        if self._asked_bytes and self._asked_bytes + missing.file_bytes > self._cache.ram_bytes:
            return False
        self._asked_bytes += missing.file_bytes
        self._disk.fetch(missing.names, missing.keys, done)
        return True

    def let_go(self, missing: Missing) -> None:
        """What ``done`` was called with does not wait for us any more."""
        self._asked_bytes -= missing.file_bytes

    def fetched(self, missing: Missing, payloads: list[tuple[bytes, Bytes]]) -> list[bytes]:
        """Take them into RAM, where the named ones are pinned until :meth:`unpin`."""
        return self._cache.fetched(missing, payloads)

    def unpin(self, names: Sequence[bytes]) -> None:
        self._cache.unpin(names)

    def restore(self, sequence: Tokens, chain: Chain | None, inherited: Prefix) -> int:
        """Give a sequence that was just placed the KV that is known of its tokens; returns of how many.

        Args:
            inherited: KV of its beginning, of the choice that computed it; goes before what the cache has.
        """
        assert sequence.pool is not None
        if self._layout is None:
            return 0
        match = inherited
        if not inherited.tokens and chain is not None:
            match = self._cache.match(chain, sequence.tokens)
        if not match.tokens:
            return 0
        with self._cache.restoring.measure():
            done = self._contexts.write(sequence.pool, sequence.slot, self._layout, match)
        if not done:
            log.warning("Cached KV could not be restored and is computed again", tokens=match.tokens)
        return match.tokens if done else 0

    def holds(self, name: bytes) -> bool:
        """Whether a block is in any tier."""
        return self._cache.holds(name)

    def count(self, prompt_tokens: int, cached_tokens: int) -> None:
        """A prompt was begun, and so much of it did not have to be computed."""
        self._cache.count(prompt_tokens, cached_tokens)

    def save(
        self, chain: Chain | None, tokens: Sequence[int], pool: Pool, slot: int, computed: int, *, tail: bool
    ) -> None:
        """Keep the first ``computed`` of ``tokens``, which are in these cells: whole blocks, and the tail if asked."""
        if chain is None or computed < LEAST_TOKENS or not self._cache.wants(chain, tokens, computed, tail=tail):
            return
        try:
            self._cache.save(chain, tokens, self._contexts.read(pool, slot, computed), tail=tail)
        except UnknownForm as fault:
            log.warning("KV could not be saved", reason=str(fault), tokens=computed)

    @property
    def sliding(self) -> bool:
        """The model has a sliding window: a sequence resumes only where its state was saved as it was then."""
        return self._window_tokens > 0

    def stops(self, prompt_tokens: int, shared_tokens: int) -> tuple[int, ...]:
        """Where chunks of a prompt must end, since its state is saved as it is there."""
        return self._cache.stops(prompt_tokens, shared_tokens)

    def wants_progress(self, sequence: Tokens, saved: int) -> bool:
        """Whether a prompt's KV must be saved while it is computed, of which the first ``saved`` tokens were before:
        with a sliding window, what has left the window can't be saved any more."""
        slid = 0 < self._window_tokens <= sequence.computed - saved + BLOCK_TOKENS
        return slid or sequence.computed in sequence.stops

    def witness(self, chain: Chain, tokens: Sequence[int], count: int) -> bytes | None:
        """The name of what shows, as long as a tier holds it, that the KV of the first ``count`` tokens is kept."""
        return self._cache.witness(chain, tokens, count)

    def prefix(self, pool: Pool, slot: int, computed: int) -> Prefix:
        """A copy of all that a sequence has in its cells; nothing if its state has an unknown form."""
        try:
            return self._contexts.read(pool, slot, computed).prefix()[1] if self._layout else Prefix()
        except UnknownForm:
            return Prefix()

    def move(self, lane: int, slot: int, computed: int) -> bool:
        """Copy a sequence from its lane to the long pool (about 5 ms for 1,024 tokens), then free the lane. False: it
        has no KV there and must be computed again."""
        prefix = self.prefix(Pool.LANES, lane, computed)
        self._contexts.forget(Pool.LANES, lane)
        return (
            prefix.tokens > 0
            and self._layout is not None
            and self._contexts.write(Pool.LONG, slot, self._layout, prefix)
        )

    def set_budget(self, budget: CacheBudget) -> None:
        """What the cache may take from now on. The first budget opens the SSD tier (0.1 s for 10,000 blocks)."""
        if self._layout is None:
            return
        disk = DiskBudget(
            bytes=budget.ssd_bytes,
            bytes_per_second=budget.ssd_bytes_per_second,
            bytes_per_day=budget.ssd_bytes_per_day,
            least_frequently_used_first=budget.least_frequently_used_first,
        )
        if self._disk is not None:
            self._disk.set_budget(disk)
        elif self._directory is not None:
            # Also with a budget of nothing: what an earlier worker left there then goes.
            self._disk = DiskTier(
                self._directory, compatibility=self._compatibility, budget=disk, on_event=self._disk_event
            )
            self._cache.use_disk(self._disk)
        used_bytes = self._cache.ram_used_bytes
        self._cache.set_budget(budget.ram_bytes, least_frequently_used_first=budget.least_frequently_used_first)
        self._freed_bytes += used_bytes - self._cache.ram_used_bytes
        if self._freed_bytes >= _MUCH_FREED_BYTES:  # it is another model's now
            self._freed_bytes = 0
            give_back_freed()

    def report(self, context_tokens: int) -> CacheReport:
        if self._refusal:
            off = TierReport(reason=self._refusal, possible=False)
            return CacheReport(context_tokens=context_tokens, ram=off, ssd=off)
        report = self._cache.report(context_tokens)
        if self._directory is None:
            off = TierReport(reason="this worker has no directory for it", possible=False)
            return msgspec.structs.replace(report, ssd=off)
        return report

    def check(self) -> None:
        """Raises:
        RuntimeError: what the cache holds does not add up.
        """
        self._cache.check()

    def close(self) -> None:
        """Write what waits for the disk, within a second, and let go of it."""
        if self._disk is not None:
            self._disk.drain(1.0)
            self._disk.close()

    def _disk_event(self, _event: DiskEvent) -> None:
        self._on_disk_event()


def _prove(contexts: Contexts) -> tuple[Layout | None, str]:
    try:
        return contexts.prove(), ""
    except UnknownForm as fault:
        reason = f"this model's KV can't be kept: {fault}"
        log.warning("Nothing is cached", reason=reason)
        return None, reason
