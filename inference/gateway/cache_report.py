"""What the supervisor says of this node's caches, as ``/cache/stats`` and ``/metrics/cache`` show it. Pure.

All numbers come from the supervisor, so every gateway process gives the same. Counters begin with the supervisor
(``since``); the hit rate is of the last ten minutes: prompt tokens that were not computed ÷ prompt tokens, null while
there were none.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from inference.protocol import TIMING_BOUNDS_SECONDS, Caches, CacheView, TierReport, TierView, Timing

WINDOW_SECONDS = 600

_QUANTILES = (0.5, 0.95, 0.99)
_TIMINGS = {"match": "match_timing", "save": "save_timing", "restore": "restore_timing"}


def cache_report(
    caches: Caches | None, models: Iterable[str], held_prefixes: Mapping[str, int] = MappingProxyType({})
) -> dict[str, Any]:
    """The whole node, and each model under ``per_model``: those of the catalogue (``models``) and those whose blocks
    are still there. None: the supervisor has said nothing yet.

    ``held_prefixes``: how many beginnings of prompts each model's workers have said that they hold.
    """
    views = caches.caches if caches else ()
    by_model: dict[str, list[CacheView]] = {model: [] for model in models}
    for view in views:
        by_model.setdefault(view.model, []).append(view)
    return {
        "window_seconds": WINDOW_SECONDS,
        "configured": caches is not None and caches.configured,
        **_counts(views),
        "held_prefixes": sum(held_prefixes.values()),
        "ram": {"size_bytes": caches.ram_bytes if caches else 0, **_tiers([(v.cache.ram, v.ram) for v in views])},
        "ssd": {"size_bytes": caches.ssd_bytes if caches else 0, **_tiers([(v.cache.ssd, v.ssd) for v in views])},
        "per_model": {
            model: _model(of_model) | {"held_prefixes": held_prefixes.get(model, 0)}
            for model, of_model in by_model.items()
        },
    }


def timings(caches: Caches | None) -> dict[str, Any]:
    """How long the stages of the cache take, in seconds, over the whole node and by model."""
    views = caches.caches if caches else ()
    models = sorted({view.model for view in views})
    return {
        **_stages(views),
        "per_model": {model: _stages([view for view in views if view.model == model]) for model in models},
    }


def quantile(counts: Sequence[int], q: float, bounds: Sequence[float] = TIMING_BOUNDS_SECONDS) -> float | None:
    """Estimated from a histogram, evenly within a bucket, as Prometheus does; None where nothing was counted. What is
    longer than the last bound is given as that bound."""
    total = sum(counts)
    if not total:
        return None
    rank, below, seen = q * total, 0.0, 0
    for bound, count in zip(bounds, counts, strict=False):
        if count and seen + count >= rank:
            return below + (bound - below) * (rank - seen) / count
        below, seen = bound, seen + count
    return below


def _model(views: Sequence[CacheView]) -> dict[str, Any]:
    return {
        "state": "running" if any(view.running for view in views) else "cold",
        **_counts(views),
        "size_bytes": sum(view.ram.held_bytes + view.ssd.held_bytes for view in views),
        "ram": _tiers([(view.cache.ram, view.ram) for view in views]),
        "ssd": _tiers([(view.cache.ssd, view.ssd) for view in views]),
        "versions": [view.version for view in views],
    }


def _counts(views: Sequence[CacheView]) -> dict[str, Any]:
    prompt_tokens = sum(view.window_prompt_tokens for view in views)
    cached_tokens = sum(view.window_cached_tokens for view in views)
    return {
        "hit_rate": cached_tokens / prompt_tokens if prompt_tokens else None,
        "window_prompt_tokens": prompt_tokens,
        "window_cached_tokens": cached_tokens,
        "prompt_tokens": sum(view.cache.prompt_tokens for view in views),
        "cached_tokens": sum(view.cache.cached_tokens for view in views),
        "lookups": sum(view.cache.lookups for view in views),
        "hits": sum(view.cache.hits for view in views),
        "misses": sum(view.cache.lookups - view.cache.hits for view in views),
        "ssd_hits": sum(view.cache.ssd_hits for view in views),
        "evictions": sum(view.cache.ram.evicted_blocks + view.cache.ssd.evicted_blocks for view in views),
        "context_tokens": sum(view.cache.context_tokens for view in views),
        "written_bytes": sum(view.cache.written_bytes for view in views),
    }


def _tiers(tiers: Sequence[tuple[TierReport, TierView]]) -> dict[str, Any]:
    """One tier, over several versions."""
    return {
        "held_bytes": sum(view.held_bytes for _, view in tiers),
        "share_bytes": sum(view.share_bytes for _, view in tiers),
        "limit_bytes": sum(view.limit_bytes for _, view in tiers),
        "blocks": sum(report.blocks for report, _ in tiers),
        "evicted_blocks": sum(report.evicted_blocks for report, _ in tiers),
        "dropped_blocks": sum(report.dropped_blocks for report, _ in tiers),
        "off": sorted({report.reason for report, _ in tiers if report.reason and not report.enabled}),
    }


def _stages(views: Sequence[CacheView]) -> Mapping[str, Any]:
    return {stage: timing([getattr(view.cache, field) for view in views]) for stage, field in _TIMINGS.items()}


def timing(histograms: Sequence[Timing]) -> dict[str, Any]:
    """How often, and how long at p50, p95 and p99, in seconds."""
    counts = [0] * (len(TIMING_BOUNDS_SECONDS) + 1)
    for histogram in histograms:
        for place, count in enumerate(histogram.counts[: len(counts)]):
            counts[place] += count
    return {"count": sum(counts), **{f"p{q * 100:g}_seconds": quantile(counts, q) for q in _QUANTILES}}
