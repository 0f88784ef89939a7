"""Who belongs to which variant."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.experiments.assignment import drawn, variant

SESSIONS = [f"session-{number}" for number in range(10_000)]
shares = st.floats(0, 1)


def within_bounds(of_a: int, share: float) -> bool:
    """Five standard deviations of a binomial: one run in two million is outside by chance."""
    return abs(of_a - len(SESSIONS) * share) < 5 * math.sqrt(len(SESSIONS) * share * (1 - share))


@pytest.mark.parametrize("share", [0.7, 0.5, 0.01])
def test_sessions_are_split_by_the_share(share: float) -> None:
    assert within_bounds(sum(variant(session, "test", share) == "A" for session in SESSIONS), share)


def test_requests_without_a_session_are_split_by_the_share() -> None:
    chance = random.Random(1)
    assert within_bounds(sum(drawn(chance.random(), 0.7) == "A" for _ in SESSIONS), 0.7)


def test_a_session_keeps_to_its_variant_in_every_process() -> None:
    """What it was when this was written it must be for ever."""
    assert [variant(session, "test", 0.5) for session in SESSIONS[:12]] == list("BAAAABAAAAAB")


@given(st.text(), st.text(), shares, shares)
def test_raising_bs_share_moves_sessions_from_a_to_b_only(session: str, test: str, one: float, other: float) -> None:
    less_of_b, more_of_b = max(one, other), min(one, other)
    moved = variant(session, test, less_of_b), variant(session, test, more_of_b)
    assert moved in {("A", "A"), ("A", "B"), ("B", "B")}


@given(st.text(st.characters(), max_size=300), st.text(st.characters(), max_size=300))
def test_a_share_of_all_or_nothing_is_exact_for_any_string(session: str, test: str) -> None:
    assert variant(session, test, 1.0) == "A"
    assert variant(session, test, 0.0) == "B"


def test_a_lone_surrogate_is_a_session_like_any_other() -> None:
    assert variant("\ud800", "\udfff", 1.0) == "A"


def test_two_tests_split_sessions_independently() -> None:
    both = sum(variant(session, "one", 0.5) == variant(session, "two", 0.5) == "A" for session in SESSIONS)
    assert within_bounds(both, 0.25)
