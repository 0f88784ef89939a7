"""Sums of what gateways count of routing."""

from itertools import zip_longest

from inference.durations import added
from inference.protocol import ExperimentSums, RoutingCounts, VariantSums


def routing_added(one: RoutingCounts, other: RoutingCounts) -> RoutingCounts:
    tests = {name: dict(splits) for name, splits in one.tests.items()}
    for name, splits in other.tests.items():
        before = tests.setdefault(name, {})
        for split, sums in splits.items():
            there = before.get(split, ExperimentSums())
            before[split] = ExperimentSums(a=_variants_added(there.a, sums.a), b=_variants_added(there.b, sums.b))
    return RoutingCounts(
        strategies=_counts_added(one.strategies, other.strategies),
        routes=_counts_added(one.routes, other.routes),
        models=_counts_added(one.models, other.models),
        named=one.named + other.named,
        failed=one.failed + other.failed,
        fallbacks=one.fallbacks + other.fallbacks,
        seconds=one.seconds + other.seconds,
        timing=tuple(map(sum, zip_longest(one.timing, other.timing, fillvalue=0))),
        tests=tests,
    )


def _variants_added(one: VariantSums, other: VariantSums) -> VariantSums:
    numbers = {name: getattr(one, name) + getattr(other, name) for name in _NUMBERS}
    return VariantSums(**numbers, first_token=added(one.first_token, other.first_token))


def _counts_added(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in one | other}


_NUMBERS = tuple(name for name in VariantSums.__struct_fields__ if name != "first_token")
