"""What workers' caches counted, summed over workers that come and go. Pure."""

from collections import deque

from msgspec.structs import replace

from inference.protocol import CacheReport, TierReport
from inference.stopwatch import timings_added

WINDOW_SECONDS = 600
_STEP_SECONDS = 10
"""The window moves in steps, so that it costs sixty small entries whatever the traffic."""

_COUNTERS = (
    "prompt_tokens",
    "cached_tokens",
    "lookups",
    "hits",
    "ssd_hits",
    "save_seconds",
    "restore_seconds",
    "written_bytes",
)
_TIMINGS = ("match_timing", "save_timing", "restore_timing")
_TIER_COUNTERS = ("evicted_blocks", "dropped_blocks")


def added(past: CacheReport, current: CacheReport) -> CacheReport:
    """The counters of both; all that is no counter is as ``current`` says."""
    sums = {name: getattr(past, name) + getattr(current, name) for name in _COUNTERS}
    timings = {name: timings_added(getattr(past, name), getattr(current, name)) for name in _TIMINGS}
    tiers = {"ram": _tier_added(past.ram, current.ram), "ssd": _tier_added(past.ssd, current.ssd)}
    return replace(current, **sums, **timings, **tiers)


def _tier_added(past: TierReport, current: TierReport) -> TierReport:
    return replace(current, **{name: getattr(past, name) + getattr(current, name) for name in _TIER_COUNTERS})


class Window:
    """Prompt tokens, and how many of them were not computed, within the last :data:`WINDOW_SECONDS`.

    ``now`` is seconds of a monotonic clock.
    """

    def __init__(self) -> None:
        self._steps: deque[tuple[int, int, int]] = deque()
        self.prompt_tokens = 0
        self.cached_tokens = 0

    def add(self, prompt_tokens: int, cached_tokens: int, now: float) -> None:
        """So many more since the last call."""
        step = int(now // _STEP_SECONDS)
        if self._steps and self._steps[-1][0] == step:
            _, prompt_before, cached_before = self._steps.pop()
            self._steps.append((step, prompt_before + prompt_tokens, cached_before + cached_tokens))
        else:
            self._steps.append((step, prompt_tokens, cached_tokens))
        self.prompt_tokens += prompt_tokens
        self.cached_tokens += cached_tokens
        self.forget(now)

    def forget(self, now: float) -> bool:
        """Drop what is too long ago; whether that changed anything."""
        oldest = int((now - WINDOW_SECONDS) // _STEP_SECONDS)
        before = self.prompt_tokens
        while self._steps and self._steps[0][0] <= oldest:
            _, prompt_tokens, cached_tokens = self._steps.popleft()
            self.prompt_tokens -= prompt_tokens
            self.cached_tokens -= cached_tokens
        return self.prompt_tokens != before
