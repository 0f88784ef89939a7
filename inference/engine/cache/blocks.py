"""The block cache as the engine sees it: find the longest beginning of a prompt, keep what was computed.

RAM is looked through at once; what only the SSD holds is fetched beforehand (:meth:`BlockCache.missing`) by the disk's
own thread, while the request waits and others run.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from inference.engine.cache.disk import DiskTier
from inference.engine.cache.names import BLOCK_TOKENS, BlockId, Chain, Owner
from inference.engine.cache.ram import Block, RamTier
from inference.engine.cache.state import Bytes, Layout, Part, Prefix, usable
from inference.protocol import CacheReport, TierReport
from inference.stopwatch import Stopwatch

LEAST_TOKENS = 16
"""Less is computed faster than it is looked after."""


Entry = tuple[BlockId, Owner, tuple[int, ...]]
"""What is kept under a name, whose it is, and its tokens."""


class Readable(Protocol):
    """KV in cells."""

    @property
    def tokens(self) -> int: ...

    def cut(self, start: int, stop: int) -> Bytes:
        """KV of the tokens from ``start`` up to ``stop``, of one block at most."""

    def checkpoint(self) -> Bytes | None:
        """What recurrent layers remember of all of them; None: there are none."""


@dataclass(slots=True)
class Missing:
    """Blocks that the SSD holds and RAM does not, in the order of the prompt."""

    ids: list[Entry] = field(default_factory=list)
    file_bytes: int = 0
    """Of their files, once they are asked for."""

    @property
    def names(self) -> list[bytes]:
        return [id.name for id, _, _ in self.ids]

    @property
    def keys(self) -> Mapping[bytes, bytes]:
        return {id.name: owner.key for id, owner, _ in self.ids}


class BlockCache:
    """Both tiers of one worker. Owned by the engine's thread."""

    def __init__(self, ram: RamTier, layout: Layout, clock: Callable[[], float] = time.time) -> None:
        self._ram = ram
        self._layout = layout
        self._disk: DiskTier | None = None
        self._clock = clock
        self._prompt_tokens = self._cached_tokens = self._lookups = self._hits = self._ssd_hits = 0
        self._matching = Stopwatch()
        self._saving = Stopwatch()
        self.restoring = Stopwatch()
        """Run by whoever puts a match into cells."""

    @property
    def enabled(self) -> bool:
        return self._ram.budget_bytes > 0

    @property
    def ram_bytes(self) -> int:
        """The budget of the RAM tier."""
        return self._ram.budget_bytes

    @property
    def ram_used_bytes(self) -> int:
        return self._ram.used_bytes

    def holds(self, name: bytes) -> bool:
        """Whether a block is in any tier. What waits to be written to SSD is not there yet."""
        return name in self._ram or (self._disk is not None and self._disk.holds(name))

    def missing(self, chain: Chain, tokens: Sequence[int]) -> Missing:
        """What must be fetched so that :meth:`match` can find as much as both tiers hold."""
        missing = Missing()
        if self._disk is None or not self.enabled:
            return missing
        whole = len(tokens) // BLOCK_TOKENS
        room = self._ram.budget_bytes // self._layout.block_bytes(BLOCK_TOKENS)
        for index in range(min(whole, room)):
            id = chain.block(index, tokens)
            if id.name in self._ram:
                continue
            if not self._disk.holds(id.name):
                self._add_tail(missing, chain, tokens, index)
                return missing
            missing.ids.append((id, chain.owner(index), _slice(tokens, index, BLOCK_TOKENS)))
        if whole < room:
            self._add_tail(missing, chain, tokens, whole)
        return missing

    def fetched(self, missing: Missing, payloads: Sequence[tuple[bytes, Bytes]]) -> list[bytes]:
        """Take what the SSD gave for ``missing`` into RAM, pinned. Returns the names that are to be unpinned."""
        pinned = []
        for (id, owner, tokens), (name, payload) in zip(missing.ids, payloads, strict=False):
            if name != id.name:
                break
            held = name in self._ram
            if not held and not self._ram.insert(id, owner, tokens, payload, self._clock(), fetched=True):
                break
            self._ram.pin(name)
            pinned.append(name)
        return pinned

    def unpin(self, names: Sequence[bytes]) -> None:
        for name in names:
            self._ram.unpin(name)

    def match(self, chain: Chain, tokens: Sequence[int]) -> Prefix:
        """The longest beginning of ``tokens`` that is in RAM, short of the last token: its logits are wanted.

        The payloads are RAM's own: they must be used before anything else is asked of the cache.
        """
        if not self.enabled:
            return Prefix()
        with self._matching.measure():
            blocks, match = self._longest(chain, tokens)
        if match.tokens < LEAST_TOKENS:
            return Prefix()
        self._note_hit(blocks)
        return match

    def count(self, prompt_tokens: int, cached_tokens: int) -> None:
        """A prompt was begun, and so much of it did not have to be computed."""
        self._prompt_tokens += prompt_tokens
        self._cached_tokens += cached_tokens
        self._lookups += 1
        self._hits += cached_tokens > 0

    def save(self, chain: Chain, tokens: Sequence[int], state: Readable, *, tail: bool) -> None:
        """Keep the KV of ``tokens``, the first of which ``state`` holds: whole blocks, and the tail if asked for. Only
        what is not kept yet is read."""
        with self._saving.measure():
            kept: list[Block] = []
            try:
                for entry, cut, within in self._cuts(chain, tokens, state, tail=tail):
                    kept += self._keep(entry, cut, within)
            finally:
                self.unpin([block.id.name for block in kept])
            self._touch(kept)

    def wants(self, chain: Chain, tokens: Sequence[int], count: int, *, tail: bool) -> bool:
        """Whether saving the first ``count`` tokens would add anything: reading state has its price."""
        if not self.enabled:
            return False
        whole, rest = divmod(count, BLOCK_TOKENS)
        for index in range(whole):
            block = self._ram.get(chain.block(index, tokens).name)
            if block is None or (self._lacks_rows(block) and index * BLOCK_TOKENS >= self._layout.first(count)):
                return True
        return tail and rest > 0 and chain.tail(whole, tokens, rest).name not in self._ram

    def witness(self, chain: Chain, tokens: Sequence[int], count: int) -> bytes | None:
        """The name of what shows, as long as it is held, that the first ``count`` tokens are: their last whole block,
        since chains go from their end. None: they are soon computed."""
        return chain.block(count // BLOCK_TOKENS - 1, tokens).name if count >= BLOCK_TOKENS else None

    def stops(self, prompt_tokens: int, shared_tokens: int) -> tuple[int, ...]:
        """Where within a prompt its state must be kept as it is then: later on it could not be had any more."""
        return ()

    def use_disk(self, disk: DiskTier) -> None:
        self._disk = disk

    def set_budget(self, ram_bytes: int, *, least_frequently_used_first: bool) -> None:
        self._ram.set_budget(ram_bytes, least_frequently_used_first=least_frequently_used_first)

    def check(self) -> None:
        self._ram.check()

    def report(self, context_tokens: int) -> CacheReport:
        first = self._ram.first_to_go()
        return CacheReport(
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            lookups=self._lookups,
            hits=self._hits,
            ssd_hits=self._ssd_hits,
            context_tokens=context_tokens,
            ram=TierReport(
                enabled=self.enabled,
                reason="" if self.enabled else "its budget is 0",
                blocks=len(self._ram),
                bytes=self._ram.used_bytes,
                budget_bytes=self._ram.budget_bytes,
                evicted_blocks=self._ram.evicted,
                least_recent_use=first.used_at if first else None,
                least_uses=first.uses if first else None,
            ),
            ssd=self._disk.report() if self._disk else TierReport(reason="no budget was told yet"),
            save_seconds=self._saving.seconds,
            restore_seconds=self.restoring.seconds,
            written_bytes=self._disk.written_bytes if self._disk else 0,
            match_timing=self._matching.timing,
            save_timing=self._saving.timing,
            restore_timing=self.restoring.timing,
        )

    def _add_tail(self, missing: Missing, chain: Chain, tokens: Sequence[int], index: int) -> None:
        assert self._disk is not None
        rest = len(tokens) - index * BLOCK_TOKENS
        for count in self._disk.tail_sizes(chain.parent(index, tokens)):
            id = chain.tail(index, tokens, count) if count <= rest else None
            if id and self._disk.holds(id.name):
                if id.name not in self._ram:
                    missing.ids.append((id, chain.owner(index), _slice(tokens, index, count)))
                return

    def _longest(self, chain: Chain, tokens: Sequence[int]) -> tuple[list[Block], Prefix]:
        blocks: list[Block] = []
        whole = len(tokens) // BLOCK_TOKENS
        while len(blocks) < whole and (block := self._ram.get(chain.block(len(blocks), tokens).name)):
            blocks.append(block)
        index = len(blocks)
        rest = tokens[index * BLOCK_TOKENS : (index + 1) * BLOCK_TOKENS]
        most = len(tokens) - 1
        best = self._usable([(block, BLOCK_TOKENS) for block in blocks], most)
        for similar in self._ram.similar(chain.parent(index, tokens), chain.owner(index), rest):
            candidate = self._usable([*((block, BLOCK_TOKENS) for block in blocks), similar], most)
            if candidate[1].tokens > best[1].tokens:
                best = candidate
                break  # those that follow share less with the prompt
        return best

    def _usable(self, blocks: list[tuple[Block, int]], most: int) -> tuple[list[Block], Prefix]:
        """What of these blocks' leading tokens can be restored, ``most`` at most."""
        parts = _first([(block.payload, block.id.tokens, used) for block, used in blocks], most)
        parts = _first(parts, usable(self._layout, parts))
        return [block for block, _ in blocks[: len(parts)]], Prefix.of(parts)

    def _note_hit(self, blocks: list[Block]) -> None:
        self._touch(blocks)
        self._ssd_hits += any(block.fetched for block in blocks)
        for block in blocks:
            block.fetched = False

    def _touch(self, blocks: list[Block]) -> None:
        self._ram.touch(blocks, self._clock())
        if self._disk is not None:
            self._disk.touch([block.id.name for block in blocks])

    def _lacks_rows(self, block: Block) -> bool:
        """Its tokens had left the sliding window when it was cut; another state may have more of them."""
        return self._layout.rows_held(block.payload.nbytes, block.id.tokens) < block.id.tokens

    def _cuts(
        self, chain: Chain, tokens: Sequence[int], state: Readable, *, tail: bool
    ) -> Iterator[tuple[Entry, Callable[[], Bytes], bool]]:
        """What is to be kept, how it is read, and whether all of it is within the sliding window."""
        first = self._layout.first(state.tokens)
        for index, entry in enumerate(entries(chain, tokens, state.tokens, tail=tail)):
            start = index * BLOCK_TOKENS
            yield entry, partial(state.cut, start, start + entry[0].tokens), start >= first

    def _keep(self, entry: Entry, cut: Callable[[], Bytes], within: bool) -> list[Block]:
        """The block in RAM, pinned, as it is or newly cut; nothing when there is no room for it. One that lacks rows is
        cut anew only from ``within`` the window: what has left it may not even be readable any more."""
        id, owner, tokens = entry
        block = self._ram.get(id.name)
        if block is None:
            if not self._ram.insert(id, owner, tokens, cut(), self._clock()):
                return []
            block = self._ram.get(id.name)
            assert block is not None
        elif within and self._lacks_rows(block) and not self._ram.replace(block, cut()):
            return []
        self._ram.pin(id.name)
        if self._disk is not None and not self._disk.holds(id.name):
            self._disk.put(id, block.payload, owner.key, owner.label)
        return [block]


def entries(chain: Chain, tokens: Sequence[int], count: int, *, tail: bool) -> Iterator[Entry]:
    """The blocks of the first ``count`` tokens, and the tail if asked for."""
    whole, rest = divmod(count, BLOCK_TOKENS)
    for index in range(whole):
        yield chain.block(index, tokens), chain.owner(index), _slice(tokens, index, BLOCK_TOKENS)
    if tail and rest:
        yield chain.tail(whole, tokens, rest), chain.owner(whole), _slice(tokens, whole, rest)


def _slice(tokens: Sequence[int], index: int, count: int) -> tuple[int, ...]:
    return tuple(tokens[index * BLOCK_TOKENS : index * BLOCK_TOKENS + count])


def _first(parts: list[Part], tokens: int) -> list[Part]:
    """The parts of the first ``tokens`` tokens."""
    kept: list[Part] = []
    for payload, held, used in parts:
        if tokens > 0:
            kept.append((payload, held, min(used, tokens)))
        tokens -= used
    return kept
