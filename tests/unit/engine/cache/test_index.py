"""Who is held, which tails follow a block, and who goes first."""

from hypothesis import given
from hypothesis import strategies as st

from inference.engine.cache.index import Held, Index
from tests.kv_blocks import ROOT, label, name


def index_of(*held: Held, least_frequently_used_first: bool = False) -> Index:
    index = Index(least_frequently_used_first=least_frequently_used_first)
    for one in held:
        index.add(one)
    return index


def held(number: int, *, parent: bytes = ROOT, tokens: int = 64, size: int = 10) -> Held:
    return Held(label(number, parent=parent, tokens=tokens), size, used_at=float(number))


def going(index: Index) -> list[bytes]:
    """All blocks in the order in which they go."""
    order = []
    while first := index.first_to_go():
        order.append(index.remove(first.label.block.name).label.block.name)
    return order


def test_the_least_recently_used_goes_first() -> None:
    index = index_of(held(1), held(2), held(3))
    index.touch(name(1), 4.0)
    assert going(index) == [name(2), name(3), name(1)]


def test_the_least_frequently_used_goes_first_if_that_is_the_policy() -> None:
    index = index_of(held(1), held(2), held(3), least_frequently_used_first=True)
    for number in (1, 1, 3, 2, 2, 2):
        index.touch(name(number), 9.0)
    assert going(index) == [name(3), name(1), name(2)]


def test_a_change_of_policy_keeps_uses_and_recency() -> None:
    index = index_of(held(1), held(2), held(3))
    for number in (1, 1, 2, 3):
        index.touch(name(number), 9.0)
    index.rank_by(least_frequently_used_first=True)
    assert index.first_to_go() is index.get(name(2))
    index.rank_by(least_frequently_used_first=False)
    assert index.first_to_go() is index.get(name(1))


def test_a_block_goes_after_those_that_build_on_it() -> None:
    index = index_of(
        held(1), held(2, parent=name(1)), held(3, parent=name(2)), held(4, parent=name(2), tokens=5), held(5)
    )
    assert going(index) == [name(3), name(4), name(2), name(1), name(5)]


def test_forged_names_that_form_a_ring_hang_nothing() -> None:
    index = index_of(held(1, parent=name(2)), held(2, parent=name(1)))
    assert len(going(index)) == 2


def test_sizes_of_tails_are_listed_descending_and_once() -> None:
    index = index_of(
        held(1, tokens=7), held(2, tokens=30), held(3, tokens=7), held(4), held(5, parent=name(4), tokens=1)
    )
    assert index.tail_sizes(ROOT) == (30, 7)
    assert index.tail_sizes(name(4)) == (1,)
    index.remove(name(1))
    assert index.tail_sizes(ROOT) == (30, 7)
    index.remove(name(3))
    index.remove(name(2))
    assert index.tail_sizes(ROOT) == ()
    assert index.tail_sizes(name(99)) == ()


def test_a_use_of_what_is_not_held_is_nothing() -> None:
    assert index_of().touch(name(1), 1.0) is None


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(1, 64), st.integers(0, 15)), max_size=80))
def test_bytes_and_tails_add_up_whatever_is_added_and_removed(steps: list[tuple[int, int, int]]) -> None:
    index = Index(least_frequently_used_first=False)
    there: dict[int, Held] = {}
    for number, tokens, parent in steps:
        if number in there:
            assert index.remove(name(number)) is there.pop(number)
        else:
            there[number] = held(number, parent=name(parent), tokens=tokens, size=number + 1)
            index.add(there[number])
        assert index.bytes == sum(one.size for one in there.values())
        assert len(index) == len(there)
        for other in range(16):
            assert index.holds(name(other)) == (other in there)
            tails = {one.label.block.tokens for one in there.values() if one.label.block.parent == name(other)} - {64}
            assert index.tail_sizes(name(other)) == tuple(sorted(tails, reverse=True))
