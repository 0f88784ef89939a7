"""What this gateway process counts of routing, until it tells the supervisor. Some 1 µs for each request."""

import math
from bisect import bisect_left
from types import TracebackType

from inference.durations import Histogram
from inference.gateway.admitted import Admitted
from inference.gateway.arrivals import ArrivalBook
from inference.gateway.dispatch import Answer
from inference.protocol import ROUTING_BOUNDS_SECONDS, ExperimentSums, Finished, RoutingCounts, VariantSums
from registry.errors import ApiError
from routing.decision import NAMED, Decision

_LEAST_SECONDS = 1e-6


class _Variant:
    """Of one variant of an A/B test."""

    def __init__(self) -> None:
        self.requests = self.errors = self.unavailable = 0
        self.prompt_tokens = self.cached_tokens = self.completion_tokens = 0
        self.generation_seconds = 0.0
        self.first_token = Histogram()
        self.first_token_logs = [0.0, 0.0]
        self.token_gaps = 0
        self.token_gap_logs = [0.0, 0.0]

    def answered(self, finished: Finished, first_token: float) -> None:
        self.prompt_tokens += finished.prompt_tokens
        self.cached_tokens += finished.cached_tokens
        self.completion_tokens += finished.completion_tokens
        self.generation_seconds += finished.decode_seconds
        self.first_token.observe(first_token)
        _add_log(self.first_token_logs, first_token)
        if finished.completion_tokens > 1:
            self.token_gaps += 1
            _add_log(self.token_gap_logs, finished.decode_seconds / (finished.completion_tokens - 1))

    @property
    def sums(self) -> VariantSums:
        return VariantSums(
            requests=self.requests,
            errors=self.errors,
            unavailable=self.unavailable,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            completion_tokens=self.completion_tokens,
            generation_seconds=self.generation_seconds,
            first_token=self.first_token.durations,
            first_token_log=self.first_token_logs[0],
            first_token_log_squares=self.first_token_logs[1],
            token_gaps=self.token_gaps,
            token_gap_log=self.token_gap_logs[0],
            token_gap_log_squares=self.token_gap_logs[1],
        )


def _add_log(sums: list[float], seconds: float) -> None:
    log = math.log(max(seconds, _LEAST_SECONDS))
    sums[0] += log
    sums[1] += log * log


class RouteCounting:
    """Owned by the event loop."""

    def __init__(self) -> None:
        self._begin_anew()

    def decided(self, decision: Decision) -> None:
        if decision.named:
            self._named += 1
            return
        _count(self._strategies, decision.strategy)
        _count(self._routes, decision.asked)
        _count(self._models, decision.version.model)
        seconds = decision.microseconds / 1e6
        self._seconds += seconds
        self._timing[bisect_left(ROUTING_BOUNDS_SECONDS, seconds)] += 1

    def refused(self, route: str, strategy: str) -> None:
        """Nobody on this route could answer."""
        if strategy == NAMED:
            self._named += 1
            return
        _count(self._strategies, strategy)
        _count(self._routes, route)
        self._failed += 1

    def ended(self, decision: Decision, answer: Answer | None, *, failed: bool) -> None:
        """A request that was decided on has been answered, or not; ``failed``: for a reason of the server's."""
        if decision.named:
            return
        if answer is None:
            self._failed += failed
        elif not decision.candidates or answer.version.model != decision.version.model:
            self._fallbacks += 1
        if decision.test is not None:
            self._count_variant(decision, answer, failed=failed)

    def take(self) -> RoutingCounts:
        """What was counted since it was taken last."""
        counts = RoutingCounts(
            strategies=self._strategies,
            routes=self._routes,
            models=self._models,
            named=self._named,
            failed=self._failed,
            fallbacks=self._fallbacks,
            seconds=self._seconds,
            timing=tuple(self._timing) if any(self._timing) else (),
            tests={
                name: {split: ExperimentSums(a=each["A"].sums, b=each["B"].sums) for split, each in splits.items()}
                for name, splits in self._tests.items()
            },
        )
        self._begin_anew()
        return counts

    def _begin_anew(self) -> None:
        self._strategies: dict[str, int] = {}
        self._routes: dict[str, int] = {}
        self._models: dict[str, int] = {}
        self._named = self._failed = self._fallbacks = 0
        self._seconds = 0.0
        self._timing = [0] * (len(ROUTING_BOUNDS_SECONDS) + 1)
        self._tests: dict[str, dict[str, dict[str, _Variant]]] = {}

    def _count_variant(self, decision: Decision, answer: Answer | None, *, failed: bool) -> None:
        test, drawn = decision.test, decision.variant
        assert test is not None and drawn is not None
        splits = self._tests.setdefault(test.name, {})
        variants = splits.get(test.words)
        if variants is None:
            variants = splits[test.words] = {"A": _Variant(), "B": _Variant()}
        variant = variants[drawn]
        variant.requests += 1
        own = test.a if drawn == "A" else test.b
        if own is None or (answer is not None and answer.version.model != own.version.model):
            variant.unavailable += 1
        elif failed:
            variant.errors += 1
        elif answer is not None and isinstance(finished := answer.messages[-1], Finished):
            variant.answered(finished, answer.first_token_seconds)


def _count(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


class RoutedRequest:
    """While entered, a decision is carried out; how it ends is counted, and its target has one request less."""

    __slots__ = ("_admitted", "_arrivals", "_counting", "_decision", "answer")

    def __init__(
        self,
        counting: RouteCounting,
        decision: Decision,
        admitted: Admitted,
        arrivals: ArrivalBook | None = None,
    ) -> None:
        """``arrivals``: where it is recorded, if it is."""
        self._arrivals = arrivals
        self._counting = counting
        self._decision = decision
        self._admitted = admitted
        self.answer: Answer | None = None
        """Once it has begun."""

    def __enter__(self) -> "RoutedRequest":
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        if self.answer is not None:
            self.answer.over()
        failed = self._admitted.failed or (isinstance(fault, ApiError) and fault.status >= 500)
        self._counting.ended(self._decision, self.answer, failed=failed)
        if self._arrivals is not None:
            self._arrivals.ended(self._admitted.applicant, self.answer, failed=failed)
