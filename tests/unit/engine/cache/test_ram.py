"""The RAM tier: what is found, what goes, and that the bytes always add up."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from inference.engine.cache.names import BlockId, Owner
from inference.engine.cache.ram import RamTier

OWNER = Owner(root=b"r" * 32, label="owner", key=b"k" * 32)
STRANGER = Owner(root=b"s" * 32, label="stranger", key=b"x" * 32)


def name(index: int) -> bytes:
    return index.to_bytes(32, "big")


def insert(
    tier: RamTier, index: int, *, parent: int = 0, tokens: tuple[int, ...] = (1,), size: int = 10, now: float = 0
) -> bool:
    id = BlockId(name=name(index), parent=name(parent), tokens=len(tokens))
    return tier.insert(id, OWNER, tokens, np.zeros(size, np.uint8), now)


def test_the_least_recently_used_goes_first() -> None:
    tier = RamTier(30)
    assert all(insert(tier, index) for index in (1, 2, 3))
    tier.touch([tier.get(name(1))], 1.0)  # type: ignore[list-item]
    assert insert(tier, 4)
    assert [index for index in (1, 2, 3, 4) if name(index) in tier] == [1, 3, 4]


def test_the_least_frequently_used_goes_first_when_so_told() -> None:
    tier = RamTier(30, least_frequently_used_first=True)
    assert all(insert(tier, index) for index in (1, 2, 3))
    for index in (1, 1, 2, 3, 3):
        tier.touch([tier.get(name(index))], 1.0)  # type: ignore[list-item]
    assert insert(tier, 4)
    assert name(2) not in tier


def test_a_chain_goes_from_its_end() -> None:
    tier = RamTier(30)
    chain = []
    for index in (1, 2, 3):
        insert(tier, index, parent=index - 1)
        chain.append(tier.get(name(index)))
    tier.touch(chain, 1.0)  # type: ignore[arg-type]
    insert(tier, 9)
    assert [index for index in (1, 2, 3) if name(index) in tier] == [1, 2]


def test_a_pinned_block_stays_and_what_does_not_fit_beside_it_is_refused() -> None:
    tier = RamTier(20)
    insert(tier, 1, size=15)
    tier.pin(name(1))
    assert not insert(tier, 2, size=10)
    tier.unpin(name(1))
    assert insert(tier, 2, size=10)
    assert name(1) not in tier


def test_a_lower_budget_is_kept_at_once_but_for_what_is_pinned() -> None:
    tier = RamTier(40)
    for index in (1, 2, 3, 4):
        insert(tier, index)
    tier.pin(name(1))
    tier.set_budget(0, least_frequently_used_first=False)
    assert (tier.used_bytes, name(1) in tier) == (10, True)
    tier.unpin(name(1))
    assert tier.used_bytes == 0


def test_changing_the_policy_keeps_what_is_known_of_uses() -> None:
    tier = RamTier(20)
    insert(tier, 1)
    insert(tier, 2)
    for _ in range(3):
        tier.touch([tier.get(name(1))], 1.0)  # type: ignore[list-item]
    tier.touch([tier.get(name(2))], 2.0)  # type: ignore[list-item]
    tier.set_budget(20, least_frequently_used_first=True)
    insert(tier, 3)
    assert name(1) in tier and name(2) not in tier


def test_the_block_that_begins_most_like_the_prompt_is_found() -> None:
    tier = RamTier(100)
    insert(tier, 1, parent=7, tokens=(5, 6, 7, 8))
    insert(tier, 2, parent=7, tokens=(5, 6, 9))
    insert(tier, 3, parent=8, tokens=(5, 6, 9, 9))
    found = tier.similar(name(7), OWNER, [5, 6, 9, 9, 9])
    assert [(block.id.name, common) for block, common in found] == [(name(2), 3), (name(1), 2)]
    assert tier.similar(name(7), OWNER, [6]) == []


def test_nobody_compares_his_prompt_with_a_strangers_block() -> None:
    tier = RamTier(100)
    insert(tier, 1, parent=7, tokens=(5, 6, 7, 8))
    assert tier.similar(name(7), STRANGER, [5, 6, 7, 8]) == []


class Tier(RuleBasedStateMachine):
    """Random interleavings of everything that is done to a tier."""

    def __init__(self) -> None:
        super().__init__()
        self.tier = RamTier(100)
        self.pinned: list[bytes] = []
        self.now = 0.0

    @rule(index=st.integers(1, 12), parent=st.integers(0, 12), size=st.integers(1, 60))
    def insert(self, index: int, parent: int, size: int) -> None:
        self.now += 1
        if name(index) not in self.tier:
            insert(self.tier, index, parent=parent, tokens=(index,), size=size, now=self.now)

    @rule(index=st.integers(1, 12))
    def match(self, index: int) -> None:
        found = self.tier.similar(name(0), OWNER, [index])
        assert all(block.tokens[0] == index for block, _ in found)

    @rule(indexes=st.lists(st.integers(1, 12), unique=True))
    def touch(self, indexes: list[int]) -> None:
        self.tier.touch([block for index in indexes if (block := self.tier.get(name(index)))], self.now)

    @rule(index=st.integers(1, 12))
    def pin(self, index: int) -> None:
        if name(index) in self.tier:
            self.tier.pin(name(index))
            self.pinned.append(name(index))

    @rule()
    def unpin(self) -> None:
        if self.pinned:
            self.tier.unpin(self.pinned.pop())

    @rule(budget=st.integers(0, 200), lfu=st.booleans())
    def set_budget(self, budget: int, lfu: bool) -> None:
        self.tier.set_budget(budget, least_frequently_used_first=lfu)

    @invariant()
    def everything_adds_up(self) -> None:
        self.tier.check()
        assert all(pinned in self.tier for pinned in self.pinned)


Tier.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestTier = Tier.TestCase
