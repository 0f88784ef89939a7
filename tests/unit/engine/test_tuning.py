"""What is chosen from figures."""

import pytest

from inference.engine.tuning import LONGEST_STEP_SECONDS, MARGIN, best_chunk, cost_of_a_guess, faster
from inference.protocol import EngineParameters, Measured


def figures(decode_seconds: float, mixed_seconds: float) -> Measured:
    return Measured(parameters=EngineParameters(), decode_seconds=decode_seconds, mixed_seconds=mixed_seconds)


@pytest.mark.parametrize(
    ("decode", "mixed", "wins"),
    [
        (0.050, 0.100, True),  # much faster at one, no slower at the other
        (0.090, 0.190, True),
        (0.099, 0.199, False),  # noise
        (0.100, 0.200, False),
        (0.050, 0.400, False),  # what it wins here it loses there
        (0.050, 0.300, True),  # … or less than that
    ],
)
def test_a_change_has_to_win_more_than_noise_over_both_kinds_of_step(decode: float, mixed: float, wins: bool) -> None:
    assert faster(figures(decode, mixed), figures(0.100, 0.200)) is wins


def test_of_two_at_most_one_is_faster() -> None:
    one, other = figures(0.1, 0.2), figures(0.1 / MARGIN**3, 0.2)
    assert faster(other, one) and not faster(one, other)


def test_a_chunk_that_costs_as_much_a_token_stays_small() -> None:
    assert best_chunk({64: 0.074, 128: 0.138, 256: 0.266}, 0.010) == 64


def test_the_chunk_grows_where_larger_ones_cost_less_a_token() -> None:
    assert best_chunk({64: 0.020, 128: 0.022, 256: 0.026}, 0.010) == 256


def test_the_chunk_grows_no_further_than_it_pays() -> None:
    assert best_chunk({64: 0.020, 128: 0.025, 256: 0.041}, 0.010) == 128


def test_no_chunk_keeps_others_waiting_too_long() -> None:
    assert best_chunk({64: 2.0, 128: LONGEST_STEP_SECONDS * 1.01}, 0.010) == 64


@pytest.mark.parametrize(
    ("one_seconds", "more_seconds", "cost"), [(0.010, 0.045, 0.5), (0.010, 0.010, 0.001), (0.010, 0.2, 1.0)]
)
def test_a_guess_costs_its_part_of_a_step_more_than_nothing_and_a_step_at_most(
    one_seconds: float, more_seconds: float, cost: float
) -> None:
    assert cost_of_a_guess(one_seconds, more_seconds, guesses=7) == pytest.approx(cost)
