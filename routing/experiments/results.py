"""What is counted of one variant of an A/B test: sums, which can be merged over requests, processes and nodes in any
order, and what can be told from them."""

import math
from collections.abc import Sequence
from itertools import zip_longest

import msgspec

_LEAST_SECONDS = 1e-6
"""A duration that a clock took for nothing counts as this: its logarithm must exist."""


class Trials(msgspec.Struct, frozen=True):
    """Requests, and how many of them failed. Floats serve for forecasts."""

    count: float
    failures: float

    @property
    def rate(self) -> float:
        """0–1; 0 where there were none."""
        return self.failures / self.count if self.count else 0.0


class Moments(msgspec.Struct, frozen=True):
    """Of the natural logarithms of durations in seconds: what a test of their mean needs."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    """The sum of their squares."""

    @classmethod
    def of(cls, seconds: float) -> "Moments":
        """Of one duration."""
        log = math.log(max(seconds, _LEAST_SECONDS))
        return cls(1, log, log * log)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.count + other.count, self.total + other.total, self.squares + other.squares)

    def __sub__(self, earlier: "Moments") -> "Moments":
        return Moments(self.count - earlier.count, self.total - earlier.total, self.squares - earlier.squares)

    @property
    def mean(self) -> float:
        """Raises: ZeroDivisionError: there was none."""
        return self.total / self.count

    @property
    def scatter(self) -> float:
        """The sum of squared distances from the mean; never below 0, whatever rounding makes of it."""
        return max(0.0, self.squares - self.total * self.total / self.count) if self.count else 0.0

    @property
    def typical_seconds(self) -> float | None:
        """The geometric mean of the durations."""
        return math.exp(self.mean) if self.count else None


class Histogram(msgspec.Struct, frozen=True):
    """Durations, by bounds that are the same in all processes and not kept here."""

    counts: tuple[int, ...] = ()
    """How many were at most the bound at this place, and more than the one before; last, more than all of them. Empty:
    there were none."""
    seconds: float = 0.0
    """All of them together."""

    def __add__(self, other: "Histogram") -> "Histogram":
        counts = tuple(map(sum, zip_longest(self.counts, other.counts, fillvalue=0)))
        return Histogram(counts, self.seconds + other.seconds)

    def __sub__(self, earlier: "Histogram") -> "Histogram":
        pairs = zip_longest(self.counts, earlier.counts, fillvalue=0)
        return Histogram(tuple(now - then for now, then in pairs), self.seconds - earlier.seconds)

    @property
    def count(self) -> int:
        return sum(self.counts)

    @property
    def mean(self) -> float | None:
        """Seconds. None: there were none."""
        return self.seconds / self.count if self.count else None

    def quantile(self, q: float, bounds: Sequence[float]) -> float | None:
        """Seconds, interpolated within the bucket; what is beyond the last bound counts as the last bound. None: there
        were none.

        Args:
            bounds: ascending seconds, by which it was counted.

        Raises:
            ValueError: it was counted by other bounds.
        """
        if len(self.counts) > len(bounds) + 1:
            raise ValueError(f"{len(self.counts)} buckets can't belong to {len(bounds)} bounds.")
        if not self.count:
            return None
        before, rank = 0, q * self.count
        for place, (count, bound) in enumerate(zip(self.counts, bounds, strict=False)):
            if count and before + count >= rank:
                lower = bounds[place - 1] if place else 0.0
                return lower + (bound - lower) * (rank - before) / count
            before += count
        return bounds[-1]


class VariantCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Of the requests that were drawn for this variant and have ended, since the test began.

    A test begins anew when its split changes, unless by its roll-out: what the two variants did under different splits
    was done at different times, under different load, and can't be compared.
    """

    requests: int = 0
    """All of them, also those that the other variant had to answer."""
    errors: int = 0
    """Faults of the server that the client was told of."""
    unavailable: int = 0
    """This variant could not answer, and the other one did."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of those, not computed."""
    completion_tokens: int = 0
    generation_seconds: float = 0.0
    """From the first token to the last, over all answers."""
    first_token: Histogram = Histogram()
    """Time to first token of this variant's own answers."""
    first_token_logs: Moments = Moments()
    """Of the same."""
    token_logs: Moments = Moments()
    """Of the seconds for each token after the first one, once for each answer that has more than one."""

    def __add__(self, other: "VariantCounts") -> "VariantCounts":
        return VariantCounts(**{field: getattr(self, field) + getattr(other, field) for field in _FIELDS})

    def __sub__(self, earlier: "VariantCounts") -> "VariantCounts":
        """What was counted since ``earlier``, which is contained in it."""
        return VariantCounts(**{field: getattr(self, field) - getattr(earlier, field) for field in _FIELDS})

    def contains(self, earlier: "VariantCounts") -> bool:
        """False: counting has begun anew since, in some process at least."""
        then, now = earlier, self
        pairs = zip_longest(now.first_token.counts, then.first_token.counts, fillvalue=0)
        return (
            all(getattr(now, field) >= getattr(then, field) for field in _INTEGERS)
            and now.first_token_logs.count >= then.first_token_logs.count
            and now.token_logs.count >= then.token_logs.count
            and all(count >= before for count, before in pairs)
        )

    @property
    def failures(self) -> int:
        """Requests that this variant did not serve, whether or not the client noticed."""
        return self.errors + self.unavailable

    @property
    def trials(self) -> Trials:
        """For tests, whatever a process that ended between two sums has left out."""
        return Trials(self.requests, min(self.failures, self.requests))

    @property
    def answered(self) -> int:
        return self.requests - self.failures

    @property
    def error_rate(self) -> float | None:
        """0–1: failures among all requests. None: there were none."""
        return self.failures / self.requests if self.requests else None

    @property
    def tokens_per_second(self) -> float | None:
        """Of one answer, after its first token. None: there was none after it."""
        tokens = self.completion_tokens - self.first_token.count
        return tokens / self.generation_seconds if tokens > 0 and self.generation_seconds > 0 else None

    @property
    def mean_first_token_seconds(self) -> float | None:
        return self.first_token.mean

    def first_token_quantiles(self, bounds: Sequence[float]) -> "Quantiles | None":
        """Of the time to first token.

        Args, Raises: as :meth:`Histogram.quantile`.
        """
        p50, p95, p99 = (self.first_token.quantile(q, bounds) for q in (0.5, 0.95, 0.99))
        return None if p50 is None or p95 is None or p99 is None else Quantiles(p50, p95, p99)


class ExperimentCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Of both variants of one A/B test."""

    a: VariantCounts = VariantCounts()
    b: VariantCounts = VariantCounts()

    def __add__(self, other: "ExperimentCounts") -> "ExperimentCounts":
        return ExperimentCounts(a=self.a + other.a, b=self.b + other.b)


class Quantiles(msgspec.Struct, frozen=True):
    """Seconds."""

    p50: float
    p95: float
    p99: float


_FIELDS = VariantCounts.__struct_fields__
_INTEGERS = ("requests", "errors", "unavailable", "prompt_tokens", "cached_tokens", "completion_tokens")
