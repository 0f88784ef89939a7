"""Counters over workers that come and go."""

from inference.protocol import CacheReport, TierReport, Timing
from inference.supervisor.cache_counting import WINDOW_SECONDS, Window, added


def test_counters_are_summed_and_all_else_is_as_it_is_now() -> None:
    past = CacheReport(
        prompt_tokens=5, hits=2, save_seconds=0.5, context_tokens=9, ram=TierReport(bytes=7, evicted_blocks=3)
    )
    now = CacheReport(
        prompt_tokens=10,
        hits=1,
        save_seconds=0.25,
        context_tokens=4,
        ram=TierReport(enabled=True, bytes=70, budget_bytes=80, evicted_blocks=1),
        ssd=TierReport(dropped_blocks=6, least_recent_use=12.0),
    )
    assert added(past, now) == CacheReport(
        prompt_tokens=15,
        hits=3,
        save_seconds=0.75,
        context_tokens=4,
        ram=TierReport(enabled=True, bytes=70, budget_bytes=80, evicted_blocks=4),
        ssd=TierReport(dropped_blocks=6, least_recent_use=12.0),
    )


def test_timings_are_summed_bucket_by_bucket() -> None:
    past, now = CacheReport(match_timing=Timing(counts=(1, 2, 3))), CacheReport(match_timing=Timing(counts=(10, 0, 1)))
    assert added(past, now).match_timing == Timing(counts=(11, 2, 4))
    assert added(CacheReport(), now).match_timing == now.match_timing
    assert added(past, CacheReport()).match_timing == past.match_timing


def test_the_window_forgets_what_was_ten_minutes_ago_and_nothing_newer() -> None:
    window = Window()
    window.add(100, 10, now=1_000.0)
    window.add(50, 50, now=1_300.0)
    assert (window.prompt_tokens, window.cached_tokens) == (150, 60)
    assert window.forget(1_000.0 + WINDOW_SECONDS + 10)
    assert (window.prompt_tokens, window.cached_tokens) == (50, 50)
    assert not window.forget(1_000.0 + WINDOW_SECONDS + 10)
    assert window.forget(1_300.0 + WINDOW_SECONDS + 10)
    assert (window.prompt_tokens, window.cached_tokens) == (0, 0)


def test_the_window_is_small_whatever_the_traffic() -> None:
    window = Window()
    for number in range(10_000):
        window.add(1, 0, now=number * 0.25)
    assert len(window._steps) <= 61
    assert WINDOW_SECONDS * 4 <= window.prompt_tokens <= (WINDOW_SECONDS + 10) * 4
