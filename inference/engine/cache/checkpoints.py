"""The cache of models with recurrent layers: what these remember is kept whole, where it will be asked for again.

A transformer's KV of a prompt holds that of all its beginnings. A recurrent state holds none of them, so a prompt can
only resume where a *checkpoint* of exactly its first tokens was taken. Of a hybrid model the rows of its other layers
are kept as blocks, as any model's, so that a checkpoint has one size wherever it is and a conversation's rows are
stored once, not with each of its checkpoints (cf. vLLM's hybrid KV cache manager; Pan et al. 2025, "Marconi"). What is
restored is the longest beginning with a checkpoint and, in a hybrid, all of its rows.

Checkpoints are taken

- at the end of an answer, and where a sequence gives way to others: there the conversation goes on;
- in a prompt at its last border of blocks but for what a template writes last, which the next turn may not repeat (nor
  does it repeat what a model thought before it answered);
- at the last border of blocks within a declared prompt, for all who share it.

So each turn leaves two. The newest two of a conversation are kept like blocks; those before them serve only one who
goes back and changes an earlier turn, and go from RAM first of all when room is needed (those excepted that are
declared, or have served more than their own conversation). They are not dropped: as long as there is room they cost
nothing. On SSD they age out as they are not used any more.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from inference.engine.cache.blocks import BlockCache, Entry, Missing, Readable, entries
from inference.engine.cache.names import BLOCK_TOKENS, Chain
from inference.engine.cache.ram import Block
from inference.engine.cache.state import Bytes, Prefix

TEMPLATE_TOKENS = 16
"""About as much as templates write behind the last message."""

_LIVE = 2
"""The newest checkpoints of a conversation, which its next turn may begin with."""

_OWN_USES = 2
"""A checkpoint is used when it is saved, and when its own conversation goes on."""

_WITNESS_TOKENS = 2 * BLOCK_TOKENS
"""Computed at the end of a prompt even where its checkpoint is held."""


class CheckpointCache(BlockCache):
    """Both tiers of a worker whose model has recurrent layers. Owned by the engine's thread."""

    def missing(self, chain: Chain, tokens: Sequence[int]) -> Missing:
        if self._disk is None or not self.enabled:
            return Missing()
        for count in self._counts(chain, tokens, len(tokens) - 1):
            absent = [entry for entry in self._needed(chain, tokens, count) if entry[0].name not in self._ram]
            if self._fits(count) and all(self._disk.holds(id.name) for id, _, _ in absent):
                return Missing(absent)
        return Missing()

    def save(self, chain: Chain, tokens: Sequence[int], state: Readable, *, tail: bool) -> None:
        super().save(chain, tokens, state, tail=tail)
        self._demote_older(chain, tokens, state.tokens)

    def wants(self, chain: Chain, tokens: Sequence[int], count: int, *, tail: bool) -> bool:
        if not self.enabled or not self._fits(count):
            return False
        if _has_checkpoint(count, tail=tail):
            wanted = self._needed(chain, tokens, count)
        else:
            wanted = list(self._rows(chain, tokens, count, tail=False))
        return any(id.name not in self._ram for id, _, _ in wanted)

    def witness(self, chain: Chain, tokens: Sequence[int], count: int) -> bytes | None:
        """Its longest checkpoint, if little is computed behind it."""
        held = next(self._counts(chain, tokens, count), 0)
        return chain.checkpoint(held, tokens).name if held and count - held < _WITNESS_TOKENS else None

    def stops(self, prompt_tokens: int, shared_tokens: int) -> tuple[int, ...]:
        """The last borders of blocks in what is declared, and in the prompt short of its template's end."""
        ends = (shared_tokens, prompt_tokens - TEMPLATE_TOKENS)
        return tuple(sorted({border for end in ends if (border := end // BLOCK_TOKENS * BLOCK_TOKENS) > 0}))

    def _longest(self, chain: Chain, tokens: Sequence[int]) -> tuple[list[Block], Prefix]:
        for count in self._counts(chain, tokens, len(tokens) - 1):
            blocks = [self._ram.get(id.name) for id, _, _ in self._needed(chain, tokens, count)]
            held = [block for block in blocks if block is not None]
            if len(held) == len(blocks):
                *rows, checkpoint = held
                parts = tuple((row.payload, row.id.tokens, row.id.tokens) for row in rows)
                return held, Prefix(count, parts, checkpoint.payload)
        return [], Prefix()

    def _counts(self, chain: Chain, tokens: Sequence[int], most: int) -> Iterator[int]:
        """Of how many of the first tokens, ``most`` at most, any tier holds a checkpoint: the longest first."""
        for index in reversed(range(-(-most // BLOCK_TOKENS))):
            start = index * BLOCK_TOKENS
            parent = chain.checkpoint_parent(index, tokens)
            similar = self._ram.similar(parent, chain.owner(index), tokens[start : start + BLOCK_TOKENS])
            lengths = {block.id.tokens for block, common in similar if common == block.id.tokens}
            if self._disk is not None:
                lengths |= {BLOCK_TOKENS, *self._disk.tail_sizes(parent)}
            for length in sorted(lengths, reverse=True):
                count = start + length
                if count <= most and self.holds(chain.checkpoint(count, tokens).name):
                    yield count

    def _needed(self, chain: Chain, tokens: Sequence[int], count: int) -> list[Entry]:
        """What so many tokens are restored from: their rows, if any layers have some, and their checkpoint."""
        return [*self._rows(chain, tokens, count, tail=True), _checkpoint(chain, tokens, count)]

    def _rows(self, chain: Chain, tokens: Sequence[int], count: int, *, tail: bool) -> Iterator[Entry]:
        return entries(chain, tokens, count if self._layout.caches else 0, tail=tail)

    def _cuts(
        self, chain: Chain, tokens: Sequence[int], state: Readable, *, tail: bool
    ) -> Iterator[tuple[Entry, Callable[[], Bytes], bool]]:
        if self._layout.caches:
            yield from super()._cuts(chain, tokens, state, tail=tail)
        if _has_checkpoint(state.tokens, tail=tail):
            yield _checkpoint(chain, tokens, state.tokens), partial(_remembered, state), False

    def _fits(self, count: int) -> bool:
        """RAM has room for what so many tokens are restored from."""
        rows = self._layout.block_bytes(count) if self._layout.caches else 0
        return rows + self._layout.checkpoint_bytes <= self._ram.budget_bytes

    def _demote_older(self, chain: Chain, tokens: Sequence[int], count: int) -> None:
        for older in list(self._counts(chain, tokens, count))[_LIVE:]:
            block = self._ram.get(chain.checkpoint(older, tokens).name)
            declared = chain.shares((older - 1) // BLOCK_TOKENS)
            if block is not None and block.uses <= _OWN_USES and not declared:
                self._ram.demote(block)


def _checkpoint(chain: Chain, tokens: Sequence[int], count: int) -> Entry:
    index = (count - 1) // BLOCK_TOKENS
    return chain.checkpoint(count, tokens), chain.owner(index), tuple(tokens[index * BLOCK_TOKENS : count])


def _has_checkpoint(count: int, *, tail: bool) -> bool:
    """Whether one is kept where so many tokens are computed: at borders of blocks, and wherever a tail is kept."""
    return tail or count % BLOCK_TOKENS == 0


def _remembered(state: Readable) -> Bytes:
    checkpoint = state.checkpoint()
    assert checkpoint is not None, "the model has recurrent layers"
    return checkpoint
