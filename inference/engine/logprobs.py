"""Log probabilities of tokens under the model itself: before bias, penalties, temperature and grammars."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from inference.protocol import TokenLogprob

FloatArray = npt.NDArray[np.float32]


def token_logprob(logits: FloatArray, token: int, count: int, piece: Callable[[int], bytes]) -> TokenLogprob:
    """What the model thought of ``token``, and of the ``count`` likeliest ones in its place.

    Args:
        logits: the row that the token was chosen from, shape ``(vocabulary,)``.
    """
    highest = float(logits.max())
    # In double precision: summed over 150,000 tokens, single precision is off by 1e-4.
    log_sum = highest + float(np.log(np.exp(logits - highest, dtype=np.float64).sum()))
    return TokenLogprob(
        token=token,
        piece=piece(token),
        logprob=float(logits[token]) - log_sum,
        top=tuple(
            TokenLogprob(token=other, piece=piece(other), logprob=float(logits[other]) - log_sum)
            for other in _likeliest(logits, count)
        ),
    )


def _likeliest(logits: FloatArray, count: int) -> list[int]:
    if count == 0:
        return []
    count = min(count, logits.size)
    candidates = np.argpartition(logits, logits.size - count)[logits.size - count :]
    return [int(token) for token in candidates[np.argsort(-logits[candidates], kind="stable")]]
