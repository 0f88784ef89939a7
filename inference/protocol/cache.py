"""KV caches: what a worker may take (CacheBudget) and has (CacheReport), and all of a node's side by side (Caches)."""

import msgspec


class CacheBudget(msgspec.Struct, frozen=True, kw_only=True, tag="cache_budget"):
    """What a worker's KV cache may take. The last one said is in force."""

    ram_bytes: int
    ssd_bytes: int
    """0 switches a tier off; what is in it goes."""
    least_frequently_used_first: bool = False
    """Which block goes first: by number of uses, else by the time of the last use."""
    ssd_bytes_per_second: int = 64 * 1024 * 1024
    ssd_bytes_per_day: int = 64 * 1024**3
    """Flash wears: blocks beyond the rate or the day's budget are not written."""


class TierReport(msgspec.Struct, frozen=True, kw_only=True):
    """One tier of a worker's KV cache. Counters begin with the worker."""

    enabled: bool = False
    reason: str = ""
    """Why it is not enabled."""
    possible: bool = True
    """False: it can't be had with this model or this worker, whatever the budget; others get what it would be owed."""
    blocks: int = 0
    bytes: int = 0
    budget_bytes: int = 0
    """Of the newest CacheBudget that is in force here, also where the tier is not enabled: what a worker was told to
    give up is given to others only once it has said so."""
    evicted_blocks: int = 0
    """Pushed out by newer ones."""
    dropped_blocks: int = 0
    """Not written (beyond the rate or the day's budget) or not readable (damaged, foreign)."""
    least_recent_use: float | None = None
    """When the block was used that would go first by LRU, in seconds since the epoch."""
    least_uses: int | None = None
    """How often the block was used that would go first by LFU."""


TIMING_BOUNDS_SECONDS = tuple(float(f"{digit}e{power}") for power in range(-6, 1) for digit in (1, 2, 5))
"""From 1 µs to 5 s."""


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How long something took each time, as a histogram, which can be summed over workers."""

    counts: tuple[int, ...] = ()
    """How often it took at most the bound of :data:`TIMING_BOUNDS_SECONDS` at this place, and more than the one before;
    last, longer than all of them. Empty: it never happened."""


class CacheReport(msgspec.Struct, frozen=True, kw_only=True, tag="cache"):
    """A worker's KV cache as it is. Counters begin with the worker."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens that were not computed."""
    lookups: int = 0
    hits: int = 0
    """Lookups that found anything."""
    ssd_hits: int = 0
    """Of those: some of it came from SSD."""
    context_tokens: int = 0
    """Cells that running sequences hold now."""
    ram: TierReport = TierReport()
    ssd: TierReport = TierReport()
    save_seconds: float = 0.0
    restore_seconds: float = 0.0
    written_bytes: int = 0
    """To SSD."""
    match_timing: Timing = Timing()
    """Finding what of a prompt is cached."""
    save_timing: Timing = Timing()
    restore_timing: Timing = Timing()


class TierView(msgspec.Struct, frozen=True, kw_only=True):
    """What a version may take of one cache tier on this node, and what its model is entitled to."""

    share_bytes: int = 0
    """What the allocation strategy gives its model."""
    limit_bytes: int = 0
    """What it may hold now: more than the share while there is room, less while others still give way."""
    held_bytes: int = 0
    """Blocks of a version that is not running stay on SSD and count."""


class CacheView(msgspec.Struct, frozen=True, kw_only=True):
    """The KV cache of one version on this node, of which a worker runs or did since the supervisor began, or whose
    blocks lie on SSD."""

    version_pk: int | None
    """None: only its blocks are known, from an earlier supervisor."""
    model: str
    version: str
    running: bool
    cache: CacheReport
    """Counters are sums over all its workers since the supervisor began; the rest is as the newest report says."""
    window_prompt_tokens: int
    """Within the last ten minutes."""
    window_cached_tokens: int
    """Of those, not computed. Their ratio is the hit rate: every gateway process computes it from the same numbers."""
    ram: TierView
    ssd: TierView


class Caches(msgspec.Struct, frozen=True, kw_only=True, tag="caches"):
    """All KV caches of this node."""

    caches: tuple[CacheView, ...]
    ram_bytes: int
    """What all of them together may take here."""
    ssd_bytes: int
    configured: bool
    """Whether SQL was read; until then a default is in force."""
    since: float
    """When counting began, in seconds since the epoch."""
