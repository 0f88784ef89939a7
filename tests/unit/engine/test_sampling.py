"""Logits in, token out."""

from typing import Any

import numpy as np
import pytest

from inference.engine.sampling import Sampler, choose_batch
from inference.protocol import Sampling


def plain(**changes: Any) -> Sampling:
    """The model's own distribution, but for ``changes``."""
    return Sampling(**({"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0} | changes))


def logits(*probabilities: float) -> np.ndarray:
    return np.log(np.asarray(probabilities, np.float32))


def shares(settings: Sampling, row: np.ndarray, draws: int = 4000) -> np.ndarray:
    sampler = Sampler(settings, [])
    tokens = [sampler.choose(row) for _ in range(draws)]
    return np.bincount(tokens, minlength=row.size) / draws


def test_temperature_zero_takes_the_likeliest() -> None:
    assert Sampler(Sampling(temperature=0.0), []).choose(logits(0.2, 0.5, 0.3)) == 1


def test_temperature_one_draws_by_probability() -> None:
    assert shares(plain(seed=1), logits(0.2, 0.5, 0.3)) == pytest.approx([0.2, 0.5, 0.3], abs=0.03)


def test_a_low_temperature_sharpens() -> None:
    assert shares(plain(seed=1, temperature=0.5), logits(0.2, 0.4, 0.4)) == pytest.approx(
        [1 / 9, 4 / 9, 4 / 9], abs=0.03
    )


def test_a_tiny_temperature_is_greedy_and_does_not_overflow() -> None:
    assert Sampler(plain(temperature=1e-30), []).choose(logits(0.2, 0.5, 0.3)) == 1


def test_top_k_keeps_the_k_likeliest() -> None:
    assert shares(plain(seed=1, top_k=2), logits(0.2, 0.5, 0.3)) == pytest.approx([0, 0.625, 0.375], abs=0.03)


def test_top_p_keeps_the_fewest_that_hold_the_mass() -> None:
    assert shares(plain(seed=1, top_p=0.6), logits(0.2, 0.5, 0.3)) == pytest.approx([0, 0.625, 0.375], abs=0.03)


def test_top_p_looks_beyond_the_first_candidates_when_the_mass_is_spread_thin() -> None:
    row = np.zeros(5000, np.float32)
    assert np.count_nonzero(shares(plain(seed=1, top_p=0.99), row, draws=20_000)) > 4000


def test_min_p_drops_what_is_far_less_likely_than_the_likeliest() -> None:
    assert shares(plain(seed=1, min_p=0.5), logits(0.2, 0.5, 0.3)) == pytest.approx([0, 0.625, 0.375], abs=0.03)


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"min_p": 0.2, "top_k": 2}, 2),
        ({"min_p": 0.2, "top_k": 4}, 3),
        ({"min_p": 0.2, "top_p": 0.7}, 2),  # of the 0.9 that min-p leaves
        ({"min_p": 0.01, "top_k": 4, "top_p": 0.9}, 3),
        ({"min_p": 1.0}, 1),
        ({"min_p": 0.2, "temperature": 3.0}, 5),  # the hotter, the closer they are to each other
    ],
)
def test_min_p_goes_together_with_the_others(changes: dict[str, float], kept: int) -> None:
    row = logits(0.06, 0.2, 0.4, 0.3, 0.04)
    likeliest = set(np.argsort(-row)[:kept].tolist())
    assert set(np.flatnonzero(shares(plain(seed=1, **changes), row)).tolist()) == likeliest


def test_numbers_that_are_none_make_some_token_rather_than_an_error() -> None:
    assert 0 <= Sampler(Sampling(seed=1), []).choose(np.full(100, np.nan, np.float32)) < 100


def test_the_same_seed_draws_the_same_tokens() -> None:
    row = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    first, second = (Sampler(plain(seed=7), []) for _ in range(2))
    assert [first.choose(row) for _ in range(50)] == [second.choose(row) for _ in range(50)]


def test_a_negative_seed_is_a_seed_too() -> None:
    row = logits(0.5, 0.5)
    assert Sampler(plain(seed=-1), []).choose(row) == Sampler(plain(seed=-1), []).choose(row)


def test_bias_forbids_and_forces() -> None:
    row = logits(0.2, 0.5, 0.3)
    assert Sampler(Sampling(temperature=0.0, logit_bias={1: -100.0}), []).choose(row) == 2
    assert Sampler(Sampling(temperature=0.0, logit_bias={0: 100.0}), []).choose(row) == 0


def test_bias_of_a_token_outside_the_vocabulary_is_ignored() -> None:
    assert Sampler(Sampling(temperature=0.0, logit_bias={99: 100.0}), []).choose(logits(0.2, 0.8)) == 1


def test_penalties_move_on_from_what_was_said() -> None:
    row = logits(0.3, 0.4, 0.3)
    for settings in (
        Sampling(temperature=0.0, frequency_penalty=1.0),
        Sampling(temperature=0.0, presence_penalty=1.0),
        Sampling(temperature=0.0, repetition_penalty=2.0),
    ):
        sampler = Sampler(settings, [])
        assert [sampler.choose(row), sampler.choose(row)][0] == 1
        assert sampler.choose(row) != 1


def test_the_repetition_penalty_covers_the_prompt() -> None:
    row = np.asarray([1.0, 1.5], np.float32)
    assert Sampler(Sampling(temperature=0.0, repetition_penalty=2.0), [1]).choose(row) == 0


def test_the_logits_are_left_as_they_were() -> None:
    row = logits(0.3, 0.4, 0.3)
    before = row.copy()
    Sampler(plain(logit_bias={0: 5.0}, frequency_penalty=1.0), []).choose(row)
    assert (row == before).all()


def test_a_batch_is_chosen_row_by_row() -> None:
    rows = np.stack([logits(0.2, 0.8), logits(0.9, 0.1)])
    greedy, biased = Sampling(temperature=0.0), Sampling(temperature=0.0, logit_bias={1: 100.0})
    assert choose_batch([Sampler(greedy, []), Sampler(greedy, [])], rows) == [1, 0]
    assert choose_batch([Sampler(greedy, []), Sampler(biased, [])], rows) == [1, 1]


def test_every_choice_of_a_request_draws_differently_and_again_the_same() -> None:
    row = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    first, second, again = (Sampler(plain(seed=7), [], choice=choice) for choice in (0, 1, 1))
    drawn = [[sampler.choose(row) for _ in range(20)] for sampler in (first, second, again)]
    assert drawn[0] != drawn[1] == drawn[2]
