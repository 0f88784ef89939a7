"""What is counted of routing, as ``/routing/stats``, ``/metrics/routing`` and ``/metrics`` show it. Pure.

All numbers are sums over the gateway processes of this node, made by the supervisor, with which counting begins.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from inference.experiments import variant_counts
from inference.gateway.cache_report import quantile
from inference.protocol import (
    DURATION_BOUNDS_SECONDS,
    ROUTING_BOUNDS_SECONDS,
    ExperimentSums,
    RoutingCounts,
)
from routing.config import Strategy
from routing.experiments.results import VariantCounts
from routing.experiments.verdict import verdict

_QUANTILES = (0.5, 0.95, 0.99)


def routing_report(
    counts: RoutingCounts,
    hit_rates: Mapping[str, float | None],
    shares_of_b: Mapping[str, float],
    splits: Mapping[str, str],
) -> dict[str, Any]:
    """
    Args:
        hit_rates: by model, of those that there are.
        shares_of_b: in force, by the name of each A/B test that is on.
        splits: likewise, in words.
    """
    total = sum(counts.strategies.values())
    per_strategy = {strategy.value: counts.strategies.get(strategy.value, 0) for strategy in Strategy}
    return {
        "total_routes": total,
        "successful_routes": total - counts.failed,
        "failed_routes": counts.failed,
        "fallback_routes": counts.fallbacks,
        "named_requests": counts.named,
        "avg_routing_time_us": round(counts.seconds / total * 1e6, 3) if total else 0.0,
        "routing_time_us": _microseconds(counts),
        "per_strategy": per_strategy | {"affinity": per_strategy[Strategy.AFFINITY_BASED.value]},
        "per_route": counts.routes,
        "per_model": {
            model: {"routes": counts.models.get(model, 0), "hit_rate": hit_rates.get(model)}
            for model in sorted(counts.models.keys() | hit_rates.keys())
        },
        "ab_tests": {
            name: {"share_of_b": shares_of_b.get(name), **_test(counted, splits.get(name))}
            for name, counted in counts.tests.items()
        },
    }


def timings_report(counts: RoutingCounts) -> dict[str, Any]:
    return {"route": _microseconds(counts)}


def _microseconds(counts: RoutingCounts) -> dict[str, float | None]:
    quantiles = {f"p{q * 100:.0f}": quantile(counts.timing, q, ROUTING_BOUNDS_SECONDS) for q in _QUANTILES}
    return {name: None if seconds is None else round(seconds * 1e6, 3) for name, seconds in quantiles.items()}


def _test(counted: Mapping[str, ExperimentSums], in_force: str | None) -> dict[str, Any]:
    """Under the split that is in force, or was last; and what came under others, each by itself."""
    shown = list(counted)[-1] if in_force is None else in_force
    earlier = [{"split": split, **_results(sums)} for split, sums in counted.items() if split != shown]
    return {"split": shown, **_results(counted.get(shown, ExperimentSums())), "earlier": earlier}


def _results(sums: ExperimentSums) -> dict[str, Any]:
    a, b = variant_counts(sums.a), variant_counts(sums.b)
    return {"a": _variant(a), "b": _variant(b), "verdict": _verdict(a, b)}


def _variant(counts: VariantCounts) -> dict[str, Any]:
    quantiles = counts.first_token_quantiles(DURATION_BOUNDS_SECONDS)
    return {
        "requests": counts.requests,
        "errors": counts.errors,
        "unavailable": counts.unavailable,
        "prompt_tokens": counts.prompt_tokens,
        "cached_tokens": counts.cached_tokens,
        "completion_tokens": counts.completion_tokens,
        "tokens_per_second": counts.tokens_per_second,
        "mean_first_token_seconds": counts.mean_first_token_seconds,
        "first_token_seconds": None if quantiles is None else msgspec.to_builtins(quantiles),
    }


def _verdict(a: VariantCounts, b: VariantCounts) -> dict[str, Any]:
    found = verdict(a, b)
    return {
        "winner": found.winner,
        "words": found.words,
        "findings": [
            {"metric": each.metric.value, "outcome": each.outcome.value, "words": each.words} for each in found.findings
        ],
    }
