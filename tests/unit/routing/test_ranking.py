"""The lowest rank first, in turns."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from routing.ranking import Ranking


def test_those_of_the_lowest_rank_take_turns() -> None:
    ranking: Ranking[str] = Ranking()
    for item, rank in (("a", 3), ("b", 3), ("c", 5)):
        ranking.put(item, rank)
    assert [ranking.take_turn() for _ in range(4)] == ["a", "b", "a", "b"]
    ranking.remove("a")
    ranking.put("b", 9)
    assert ranking.first() == "c"


def test_who_keeps_its_rank_keeps_its_turn() -> None:
    ranking: Ranking[str] = Ranking()
    ranking.put("a", 1)
    ranking.put("b", 1)
    ranking.put("a", 1)
    assert ranking.take_turn() == "a"
    assert ranking.first() == "b"


def test_ranks_may_grow_without_end() -> None:
    ranking: Ranking[int] = Ranking()
    for item in range(4):
        ranking.put(item, item)
    chosen: Counter[int] = Counter()
    for rank in range(4, 40_000):
        item = ranking.first()
        chosen[item] += 1
        ranking.put(item, rank)
    assert set(chosen.values()) == {9999}
    assert ranking._mask.bit_length() < 1000


@given(st.lists(st.tuples(st.integers(0, 9), st.one_of(st.none(), st.integers(-2000, 5000))), min_size=1, max_size=200))
def test_the_first_one_always_has_the_lowest_rank(changes: list[tuple[int, int | None]]) -> None:
    ranking: Ranking[int] = Ranking()
    ranks: dict[int, int] = {}
    for item, rank in changes:
        if rank is None:
            ranking.remove(item)
            ranks.pop(item, None)
        else:
            ranking.put(item, rank)
            ranks[item] = rank
        assert len(ranking) == len(ranks)
        if ranks:
            assert ranks[ranking.first()] == min(ranks.values())
