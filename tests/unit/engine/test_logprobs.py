"""Log probabilities are the model's own."""

import numpy as np
import pytest

from inference.engine.logprobs import token_logprob


def piece(token: int) -> bytes:
    return b"%d" % token


def test_a_logprob_is_the_log_softmax_of_the_logits() -> None:
    row = np.random.default_rng(0).normal(scale=8, size=150_000).astype(np.float32)
    exact = row.astype(np.float64) - np.log(np.exp(row.astype(np.float64)).sum())
    for token in (0, 17, int(row.argmax())):
        assert token_logprob(row, token, 0, piece).logprob == pytest.approx(exact[token], abs=1e-6)


def test_all_probabilities_sum_to_one() -> None:
    row = np.random.default_rng(1).normal(size=50).astype(np.float32)
    everything = token_logprob(row, 3, 50, piece)
    assert sum(np.exp(entry.logprob or 0.0) for entry in everything.top) == pytest.approx(1.0)


def test_the_likeliest_come_first_and_as_many_as_asked() -> None:
    row = np.asarray([0.1, 3.0, 2.0, -1.0], np.float32)
    entry = token_logprob(row, 0, 3, piece)
    assert (entry.token, entry.piece) == (0, b"0")
    assert [other.token for other in entry.top] == [1, 2, 0]
    assert entry.top[2].logprob == entry.logprob


def test_more_than_the_vocabulary_holds_is_all_of_it() -> None:
    assert len(token_logprob(np.zeros(3, np.float32), 0, 20, piece).top) == 3


def test_huge_logits_do_not_overflow() -> None:
    assert token_logprob(np.asarray([1e30, 0.0], np.float32), 0, 1, piece).logprob == pytest.approx(0.0)
