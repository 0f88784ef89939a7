"""The RAM tier: blocks of KV in this process's memory, never more bytes than the budget."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from inference.engine.cache.names import BLOCK_TOKENS, BlockId, Owner
from inference.engine.cache.ranking import LeastFrequentlyUsed, LeastRecentlyUsed, Ranking
from inference.engine.cache.state import Bytes

_SIBLINGS_COMPARED = 32
"""Of the blocks that follow the same parent so many, the newest, are compared with a prompt token by token."""


@dataclass(slots=True, eq=False)
class Block:
    id: BlockId
    owner: Owner
    tokens: tuple[int, ...]
    payload: Bytes
    used_at: float
    """Seconds since the epoch."""
    uses: int = 0
    pins: int = 0
    """Somebody waits to use it: it is not evicted meanwhile."""
    fetched: bool = False
    """It came from the SSD and was not used since: a hit on it is the SSD's."""


class RamTier:
    """Owned by the engine's thread; no call waits for anything.

    Invariant (:meth:`check`): the bytes of all blocks sum to ``used_bytes``, which never exceeds ``budget_bytes``
    (pinned blocks are the one exception, and only after the budget was lowered under them).
    """

    def __init__(self, budget_bytes: int, *, least_frequently_used_first: bool = False) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self.evicted = 0
        self._blocks: dict[bytes, Block] = {}
        self._children: dict[tuple[bytes, bytes], dict[bytes, None]] = {}
        """By parent and root, so that nobody compares his prompt with a stranger's: names of blocks, oldest first."""
        self._pinned: set[bytes] = set()
        self._ranking: Ranking[bytes] = _ranking(least_frequently_used_first)

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, name: bytes) -> bool:
        return name in self._blocks

    def get(self, name: bytes) -> Block | None:
        return self._blocks.get(name)

    def insert(
        self, id: BlockId, owner: Owner, tokens: Sequence[int], payload: Bytes, now: float, *, fetched: bool = False
    ) -> bool:
        """Keep a block that is not there yet, evicting what must go for it. False: there is no room even so."""
        if not self._make_room(payload.nbytes):
            return False
        self._blocks[id.name] = Block(id, owner, tuple(tokens), payload, now, fetched=fetched)
        self._children.setdefault((id.parent, owner.root), {})[id.name] = None
        self._ranking.add(id.name)
        self.used_bytes += payload.nbytes
        return True

    def replace(self, block: Block, payload: Bytes) -> bool:
        """Give a block a payload that is larger, unless somebody waits to use it. False: there is no room, and it is
        gone."""
        if payload.nbytes <= block.payload.nbytes or block.pins:
            return True
        self._drop(block)
        return self.insert(block.id, block.owner, block.tokens, payload, block.used_at)

    def touch(self, blocks: Iterable[Block], now: float) -> None:
        """These blocks of one chain, from its root on, were used. The leaf counts as used first, so that under LRU a
        chain goes from its end: a block without its parent could never be found again."""
        for block in reversed(list(blocks)):
            block.used_at = now
            block.uses += 1
            self._ranking.touch(block.id.name)

    def demote(self, block: Block) -> None:
        """It goes before all others, unless it is used once more."""
        block.uses = 0
        self._ranking.demote(block.id.name)

    def pin(self, name: bytes) -> None:
        self._blocks[name].pins += 1
        self._pinned.add(name)

    def unpin(self, name: bytes) -> None:
        block = self._blocks[name]
        block.pins -= 1
        if not block.pins:
            self._pinned.discard(name)
            self._shrink()

    def similar(self, parent: bytes, owner: Owner, tokens: Sequence[int]) -> list[tuple[Block, int]]:
        """Blocks after ``parent`` that begin like ``tokens``, and how many tokens they share: the most first.

        The KV of a token depends on the tokens before it only, so any beginning of a block may be used.
        """
        names = self._children.get((parent, owner.root), {})
        wanted = tuple(tokens[:BLOCK_TOKENS])
        newest = [self._blocks[name] for _, name in zip(range(_SIBLINGS_COMPARED), reversed(names), strict=False)]
        found = [(block, common) for block in newest if (common := _common(block.tokens, wanted))]
        return sorted(found, key=lambda each: -each[1])

    def set_budget(self, budget_bytes: int, *, least_frequently_used_first: bool) -> None:
        self.budget_bytes = budget_bytes
        ranking = _ranking(least_frequently_used_first)
        if type(ranking) is not type(self._ranking):
            for name in self._ranking.in_order():
                ranking.add(name, self._blocks[name].uses)
            self._ranking = ranking
        self._shrink()

    def first_to_go(self) -> Block | None:
        name = self._ranking.victim(self._pinned)
        return None if name is None else self._blocks[name]

    def check(self) -> None:
        """Raises:
        RuntimeError: what is held does not add up.
        """
        if sum(block.payload.nbytes for block in self._blocks.values()) != self.used_bytes:
            raise RuntimeError(f"the blocks in RAM don't sum to the {self.used_bytes} bytes counted")
        if self.used_bytes > self.budget_bytes and not self._pinned:
            raise RuntimeError(f"{self.used_bytes} bytes are held in RAM, {self.budget_bytes} are allowed")
        if {name for names in self._children.values() for name in names} != self._blocks.keys():
            raise RuntimeError("the blocks in RAM and their parents' lists differ")
        if {name for name, block in self._blocks.items() if block.pins} != self._pinned:
            raise RuntimeError("the pins of blocks in RAM and the list of pinned blocks differ")

    def _make_room(self, needed: int) -> bool:
        if needed > self.budget_bytes:
            return False
        while self.used_bytes + needed > self.budget_bytes:
            if not self._evict_one():
                return False
        return True

    def _shrink(self) -> None:
        while self.used_bytes > self.budget_bytes and self._evict_one():
            pass

    def _evict_one(self) -> bool:
        name = self._ranking.victim(self._pinned)
        if name is None:
            return False
        self._drop(self._blocks[name])
        self.evicted += 1
        return True

    def _drop(self, block: Block) -> None:
        del self._blocks[block.id.name]
        self._ranking.remove(block.id.name)
        siblings = self._children[block.id.parent, block.owner.root]
        del siblings[block.id.name]
        if not siblings:
            del self._children[block.id.parent, block.owner.root]
        self.used_bytes -= block.payload.nbytes


def _ranking(least_frequently_used_first: bool) -> Ranking[bytes]:
    return LeastFrequentlyUsed() if least_frequently_used_first else LeastRecentlyUsed()


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many leading tokens are the same."""
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return index
    return min(len(one), len(other))
