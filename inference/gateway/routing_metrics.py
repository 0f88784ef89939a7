"""What ``/metrics`` shows of routing. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from inference.gateway.cache_report import quantile
from inference.gateway.exposition import HistogramMetric, Metric, SummaryMetric
from inference.protocol import ROUTING_BOUNDS_SECONDS, Durations, RoutingCounts, VariantSums
from routing.config import Strategy

_QUANTILES = (0.5, 0.95, 0.99)


def routing_metrics(
    counts: RoutingCounts, shares_of_b: Mapping[str, float]
) -> Iterator[Metric | HistogramMetric | SummaryMetric]:
    yield Metric(
        "nopenai_routing_total",
        "counter",
        "Requests for which a route had a choice of models, by its strategy.",
        [([("strategy", each.value)], float(counts.strategies.get(each.value, 0))) for each in Strategy],
    )
    yield Metric(
        "nopenai_routing_named_total", "counter", "Requests that named their model.", [((), float(counts.named))]
    )
    yield Metric(
        "nopenai_routing_failed_total",
        "counter",
        "Requests for which a route had a choice, and that nobody could answer.",
        [((), float(counts.failed))],
    )
    yield Metric(
        "nopenai_routing_fallbacks_total",
        "counter",
        "Requests that another model answered than the one that was chosen, since that one could not.",
        [((), float(counts.fallbacks))],
    )
    yield Metric(
        "nopenai_routing_chosen_total",
        "counter",
        "Requests for which a route had a choice, by the model that was chosen.",
        [([("model", model)], float(count)) for model, count in sorted(counts.models.items())],
    )
    yield SummaryMetric(
        "nopenai_routing_duration_seconds",
        "Seconds that a decision took, since the supervisor began.",
        [(q, quantile(counts.timing, q, ROUTING_BOUNDS_SECONDS)) for q in _QUANTILES],
        seconds=counts.seconds,
        times=sum(counts.timing),
    )
    yield HistogramMetric(
        "nopenai_routing_decision_seconds",
        "Seconds that a decision took.",
        [((), Durations(counts=counts.timing, seconds=counts.seconds))],
        ROUTING_BOUNDS_SECONDS,
    )
    yield Metric(
        "nopenai_ab_test_requests_total",
        "counter",
        "Requests that were drawn for a variant of an A/B test, and have ended, by what became of them: the other "
        "variant had to answer the unavailable ones.",
        [
            ([("test", name), ("variant", variant), ("outcome", outcome)], float(count))
            for name, splits in sorted(counts.tests.items())
            for variant, all_ in (
                ("A", [sums.a for sums in splits.values()]),
                ("B", [sums.b for sums in splits.values()]),
            )
            for outcome, count in _outcomes(all_)
        ],
    )
    yield Metric(
        "nopenai_ab_test_share",
        "gauge",
        "Share of the requests (0-1) that variant B of an A/B test gets, by its split or its roll-out. Global: the "
        "same on every node.",
        [([("test", name)], share) for name, share in sorted(shares_of_b.items())],
    )


def _outcomes(of_splits: Sequence[VariantSums]) -> Iterator[tuple[str, int]]:
    """What became of a variant's requests, under whatever split."""
    errors = sum(each.errors for each in of_splits)
    unavailable = sum(each.unavailable for each in of_splits)
    yield "answered", sum(each.requests for each in of_splits) - errors - unavailable
    yield "error", errors
    yield "unavailable", unavailable
