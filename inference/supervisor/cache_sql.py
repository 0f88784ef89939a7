"""What SQL and the caches of this node tell each other. Runs in the store's thread."""

from collections.abc import Iterable, Mapping

from inference.supervisor.cache_budgets import Tier
from inference.supervisor.cache_disk import directory_name
from inference.supervisor.cache_versions import CacheUse, KnownVersion
from inference.supervisor.caching import CacheReading
from registry.cache.allocation import ceiling
from registry.cache.selectors import NodeCache
from registry.cache.services import UseCount, cache_node_current, cache_use_add
from registry.models import Version


def caches_read(node: str) -> CacheReading:
    """What is decided for this node, which has been registered."""
    decided = cache_node_current(node=node)
    assert decided is not None
    return CacheReading(ram=_ram(decided), ssd=_ssd(decided), catalogue=_catalogue())


def use_write(counts: Mapping[str, CacheUse]) -> None:
    """Add what was asked of each model since the last time."""
    cache_use_add(
        counts={
            model: UseCount(prompt_tokens=use.prompt_tokens, cached_tokens=use.cached_tokens, requests=use.requests)
            for model, use in counts.items()
        }
    )


def _ram(decided: NodeCache) -> Tier:
    return Tier(
        bytes=decided.sizes.ram.effective_bytes,
        shares={model: share.ram_bytes for model, share in decided.shares.items()},
        ceilings=_bounds(
            (model, ceiling(decided.config, decided.ceilings, model).ram_bytes) for model in decided.shares
        ),
        policy=decided.config.global_eviction_policy,
    )


def _ssd(decided: NodeCache) -> Tier:
    return Tier(
        bytes=decided.sizes.ssd.effective_bytes,
        shares={model: share.ssd_bytes for model, share in decided.shares.items()},
        ceilings=_bounds(
            (model, ceiling(decided.config, decided.ceilings, model).ssd_bytes) for model in decided.shares
        ),
        policy=decided.config.global_eviction_policy,
    )


def _bounds(ceilings: Iterable[tuple[str, int | None]]) -> dict[str, int]:
    return {model: most for model, most in ceilings if most is not None}


def _catalogue() -> dict[str, KnownVersion]:
    rows = Version.objects.values_list("pk", "model__name", "major", "minor", "patch", "size_bytes")
    versions = (
        KnownVersion(pk=pk, model=model, version=f"{major}.{minor}.{patch}", size_bytes=size_bytes)
        for pk, model, major, minor, patch, size_bytes in rows
    )
    return {directory_name(version.model, version.version): version for version in versions}
