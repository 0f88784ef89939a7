"""What operators see of the caches."""

from typing import Any

import pytest
from msgspec.structs import replace

from inference.gateway.cache_report import cache_report, quantile, timings
from inference.protocol import (
    TIMING_BOUNDS_SECONDS,
    CacheReport,
    Caches,
    CacheView,
    TierReport,
    TierView,
    Timing,
)

VIEW = CacheView(
    version_pk=1,
    model="a",
    version="1.0.0",
    running=True,
    cache=CacheReport(
        prompt_tokens=1_000,
        cached_tokens=500,
        lookups=10,
        hits=6,
        ssd_hits=2,
        ram=TierReport(enabled=True, blocks=3, evicted_blocks=4),
        ssd=TierReport(reason="the disk is full", blocks=7, dropped_blocks=5),
    ),
    window_prompt_tokens=200,
    window_cached_tokens=50,
    ram=TierView(share_bytes=100, limit_bytes=150, held_bytes=30),
    ssd=TierView(share_bytes=1_000, limit_bytes=1_000, held_bytes=70),
)


def caches(*views: CacheView) -> Caches:
    return Caches(caches=views, ram_bytes=400, ssd_bytes=4_000, configured=True, since=0.0)


def report(*views: CacheView, models: tuple[str, ...] = ("a",)) -> dict[str, Any]:
    return cache_report(caches(*views), models)


def test_the_hit_rate_is_of_the_window_and_counters_are_of_all_time() -> None:
    model = report(VIEW)["per_model"]["a"]
    assert model["hit_rate"] == 0.25
    assert (model["prompt_tokens"], model["cached_tokens"], model["hits"], model["misses"]) == (1_000, 500, 6, 4)


def test_without_a_prompt_there_is_no_hit_rate() -> None:
    assert report(replace(VIEW, window_prompt_tokens=0, window_cached_tokens=0))["hit_rate"] is None


def test_the_node_is_the_sum_of_its_models() -> None:
    whole = report(VIEW, replace(VIEW, model="b", window_cached_tokens=150))
    assert whole["hit_rate"] == 0.5
    assert whole["lookups"] == 20
    assert whole["ram"] == {
        "size_bytes": 400,
        "held_bytes": 60,
        "share_bytes": 200,
        "limit_bytes": 300,
        "blocks": 6,
        "evicted_blocks": 8,
        "dropped_blocks": 0,
        "off": [],
    }


def test_versions_are_summed_into_their_model() -> None:
    model = report(VIEW, replace(VIEW, version="1.1.0", running=False))["per_model"]["a"]
    assert (model["versions"], model["state"]) == (["1.0.0", "1.1.0"], "running")
    assert model["size_bytes"] == 200


def test_every_model_of_the_catalogue_has_a_row() -> None:
    quiet = report(VIEW, models=("a", "quiet"))["per_model"]["quiet"]
    assert (quiet["hit_rate"], quiet["state"], quiet["size_bytes"]) == (None, "cold", 0)


def test_a_tier_that_is_off_says_why() -> None:
    assert report(VIEW)["per_model"]["a"]["ssd"]["off"] == ["the disk is full"]


def test_before_the_supervisor_has_spoken_all_is_nought() -> None:
    empty = cache_report(None, ["a"])
    assert (empty["configured"], empty["ram"]["size_bytes"], list(empty["per_model"])) == (False, 0, ["a"])
    assert timings(None)["match"] == {"count": 0, "p50_seconds": None, "p95_seconds": None, "p99_seconds": None}


# --- Timings ---


def counted(**by_bound: int) -> tuple[int, ...]:
    """Counts by the place of their bound."""
    places = {int(name.removeprefix("at")): count for name, count in by_bound.items()}
    return tuple(places.get(place, 0) for place in range(len(TIMING_BOUNDS_SECONDS) + 1))


@pytest.mark.parametrize(
    ("counts", "q", "seconds"),
    [
        (counted(at3=100), 0.5, 7.5e-6),  # between 5 and 10 µs
        (counted(at0=100), 1.0, 1e-6),
        (counted(at0=50, at6=50), 0.5, 1e-6),
        (counted(at0=50, at6=50), 0.75, 7.5e-5),  # between 50 and 100 µs
        (counted(at21=1), 0.5, 5.0),  # longer than the last bound
    ],
)
def test_quantiles_are_estimated_from_a_histogram(counts: tuple[int, ...], q: float, seconds: float) -> None:
    assert quantile(counts, q) == pytest.approx(seconds)


def test_timings_are_summed_over_workers_and_told_by_model() -> None:
    fast, slow = Timing(counts=counted(at3=99)), Timing(counts=counted(at6=1))
    found = timings(
        caches(
            replace(VIEW, cache=CacheReport(match_timing=fast)),
            replace(VIEW, model="b", cache=CacheReport(match_timing=slow)),
        )
    )
    assert found["match"]["count"] == 100
    assert found["match"]["p99_seconds"] == pytest.approx(1e-5)
    assert found["per_model"]["b"]["match"]["count"] == 1
    assert found["restore"]["count"] == 0
