"""Guessing tokens from what a sequence holds already."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.engine.speculation import MATCH_TOKENS, MOST_DRAFT_TOKENS, Lookup, draft_cost, draft_tokens
from inference.protocol import EngineParameters

COST = 0.43


def grown(start: list[int], more: list[int]) -> Lookup:
    tokens = list(start)
    lookup = Lookup(tokens)
    for token in more:
        tokens.append(token)
        lookup.appended()
    return lookup


def test_what_followed_the_last_tokens_before_is_guessed_to_follow_them_again() -> None:
    assert grown([1, 2, 3, 4, 5, 9], [1, 2, 3]).guess(2) == (4, 5)


def test_of_several_places_the_latest_is_believed() -> None:
    assert grown([1, 2, 3, 4, 1, 2, 3, 5], [1, 2, 3]).guess(1) == (5,)


def test_nothing_is_guessed_where_nothing_occurred_before() -> None:
    assert grown([1, 2, 3, 4], [5, 6]).guess(4) == ()
    assert not grown([1, 2, 3, 4], [5, 6]).found
    assert grown([], [1, 2]).guess(4) == ()


def test_a_loop_is_guessed_to_go_on_for_ever() -> None:
    assert grown([1, 2], [1, 2, 1, 2]).guess(5) == (1, 2, 1, 2, 1)


def test_accuracy_grows_with_right_guesses_and_falls_with_wrong_ones() -> None:
    lookup = grown([*range(20), 99], list(range(10)))
    right = lookup.accuracy
    assert 0 < right < 1
    assert grown([*range(20), 99], [*range(10), 50]).accuracy < right


def test_text_that_never_repeats_itself_is_never_guessed() -> None:
    assert grown([], list(range(500))).accuracy == 0
    assert draft_tokens(0.0, 1, COST) == 0


@given(st.lists(st.integers(0, 3), max_size=60), st.lists(st.integers(0, 3), max_size=60), st.integers(1, 20))
def test_guesses_are_as_many_as_asked_for_and_behind_the_last_tokens_somewhere(
    start: list[int], more: list[int], count: int
) -> None:
    tokens = start + more
    guesses = grown(start, more).guess(count)
    assert len(guesses) in (0, count)
    if guesses:
        followed = [*tokens, *guesses]
        before = len(tokens)
        places = range(1, before)
        assert any(all(followed[at + i] == guesses[i] for i in range(count)) for at in places)


@given(st.floats(0, 1), st.integers(1, 64), st.floats(0.01, 1))
def test_only_guesses_likelier_than_their_cost_are_computed(accuracy: float, sequences: int, cost: float) -> None:
    count = draft_tokens(accuracy, sequences, cost)
    least = cost / ((1 - cost) / sequences + cost)
    assert 0 <= count <= MOST_DRAFT_TOKENS
    assert count == 0 or accuracy**count >= least * (1 - 1e-9)
    assert count == MOST_DRAFT_TOKENS or accuracy ** (count + 1) <= least * (1 + 1e-9)


def test_the_more_sequences_share_a_step_the_surer_guesses_must_be() -> None:
    counts = [draft_tokens(0.9, sequences, COST) for sequences in (1, 2, 4, 16)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1] == 0


@pytest.mark.parametrize(
    ("parameters", "recurrent"),
    [
        (EngineParameters(prompt_lookup=False), False),
        (EngineParameters(), True),
        (EngineParameters(draft_cost=1), False),
    ],
)
def test_nothing_is_guessed_when_it_is_off_or_can_not_be_taken_back(
    parameters: EngineParameters, recurrent: bool
) -> None:
    assert draft_tokens(1.0, 1, draft_cost(parameters, recurrent=recurrent)) == 0


def test_a_match_needs_some_tokens() -> None:
    assert grown([7, 8], [1, 7]).guess(1) == ()
    assert MATCH_TOKENS == 3
