"""Who goes first, by recency and by frequency."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.engine.cache.ranking import LeastFrequentlyUsed, LeastRecentlyUsed, Ranking


def ranked(ranking: Ranking[str], *touches: str) -> Ranking[str]:
    for key in "abc":
        ranking.add(key)
    for key in touches:
        ranking.touch(key)
    return ranking


def test_by_recency_goes_who_was_not_used_for_longest() -> None:
    assert ranked(LeastRecentlyUsed(), "a", "c").victim() == "b"


def test_by_frequency_goes_who_was_used_least_and_among_equals_the_oldest() -> None:
    assert ranked(LeastFrequentlyUsed(), "a", "a", "c", "b").victim() == "c"


@pytest.mark.parametrize("ranking", [LeastRecentlyUsed[str](), LeastFrequentlyUsed[str]()])
def test_who_is_spared_does_not_go_and_comes_next_again(ranking: Ranking[str]) -> None:
    ranked(ranking)
    assert ranking.victim({"a", "b"}) == "c"
    assert ranking.victim() == "a"
    assert ranking.victim(set("abc")) is None


@pytest.mark.parametrize("ranking", [LeastRecentlyUsed[str](), LeastFrequentlyUsed[str]()])
def test_who_was_removed_is_gone(ranking: Ranking[str]) -> None:
    ranked(ranking)
    ranking.remove("a")
    assert ranking.victim() == "b"
    assert ranking.in_order() == ["b", "c"]


@pytest.mark.parametrize("ranking", [LeastRecentlyUsed[str](), LeastFrequentlyUsed[str]()])
def test_who_is_demoted_goes_first_unless_used_once_more(ranking: Ranking[str]) -> None:
    ranked(ranking, "a", "b", "c", "c")
    ranking.demote("b")
    ranking.demote("c")
    assert ranking.victim() == "c"
    ranking.touch("c")
    assert ranking.victim() == "b"


@given(st.lists(st.tuples(st.sampled_from(["touch", "remove", "add"]), st.sampled_from("abcdef")), max_size=200))
def test_frequency_agrees_with_counting_by_hand(events: list[tuple[str, str]]) -> None:
    ranking = LeastFrequentlyUsed[str]()
    by_hand: dict[str, tuple[int, int]] = {}
    for now, (event, key) in enumerate(events):
        if event == "add" and key not in by_hand:
            ranking.add(key)
            by_hand[key] = (0, now)
        elif event == "touch" and key in by_hand:
            ranking.touch(key)
            by_hand[key] = (by_hand[key][0] + 1, now)
        elif event == "remove" and key in by_hand:
            ranking.remove(key)
            del by_hand[key]
    assert ranking.victim() == min(by_hand, key=lambda key: by_hand[key], default=None)
