"""What two variants might have done."""

import math
import random
from collections.abc import Iterator

from routing.experiments.results import Histogram, Moments, VariantCounts

SPREAD = 0.5
"""Standard deviation of the logarithms of durations."""


def logs(count: int, mean: float, spread: float = SPREAD) -> Moments:
    """Of log durations that have exactly this mean and standard deviation."""
    return Moments(count, count * mean, count * (mean * mean + spread * spread))


def counts(
    requests: int,
    *,
    errors: int = 0,
    unavailable: int = 0,
    first_token_seconds: float = 0.4,
    token_seconds: float = 0.02,
) -> VariantCounts:
    answered = requests - errors - unavailable
    return VariantCounts(
        requests=requests,
        errors=errors,
        unavailable=unavailable,
        first_token=Histogram((answered,), answered * first_token_seconds),
        first_token_logs=logs(answered, math.log(first_token_seconds)),
        token_logs=logs(answered, math.log(token_seconds)),
    )


def drawn_requests(chance: random.Random, error_rate: float, first_token_seconds: float) -> Iterator[VariantCounts]:
    """One after the other, for ever."""
    middle = math.log(first_token_seconds)
    while True:
        if chance.random() < error_rate:
            yield VariantCounts(requests=1, errors=1)
        else:
            seconds = math.exp(chance.gauss(middle, SPREAD))
            yield VariantCounts(requests=1, first_token_logs=Moments.of(seconds))
