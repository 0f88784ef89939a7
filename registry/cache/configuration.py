"""The configuration of the KV cache as it is kept, and how a partial change becomes the next one. Pure."""

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Any

import msgspec

from registry.cache.eviction import EvictionPolicy
from registry.errors import InvalidRequest

GB = 1024**3
"""A GB here is 2^30 bytes, and an MB 2^20, as everywhere in this product's settings."""
MB = 1024**2

DEFAULT_PRIORITY = 5
HIGHEST_PRIORITY = 10

_SIZES = ("global_cache_size_gb", "global_cache_ram_gb", "global_cache_ssd_gb")
_ROUNDING_GB = 0.001


class Strategy(StrEnum):
    FAIR_SHARE = "fair_share"
    PROPORTIONAL = "proportional"
    PRIORITY_BASED = "priority_based"
    DYNAMIC = "dynamic"


class PerModelQuota(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits of every model that has none of its own. None: no limit. The first two cap its part of the cache."""

    max_ram_mb: int | None = None
    max_ssd_gb: float | None = None
    hourly_token_limit: int | None = None
    hourly_request_limit: int | None = None
    daily_token_limit: int | None = None
    daily_request_limit: int | None = None
    burst_token_limit: int | None = None
    max_concurrent_requests: int | None = None

    @property
    def ram_bytes(self) -> int | None:
        return None if self.max_ram_mb is None else self.max_ram_mb * MB

    @property
    def ssd_bytes(self) -> int | None:
        return None if self.max_ssd_gb is None else gb_bytes(self.max_ssd_gb)


class CacheAllocation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The configuration as it is kept. Of the three sizes at most two are set (:func:`changed`)."""

    global_cache_size_gb: float | None = None
    global_cache_ram_gb: float | None = None
    global_cache_ssd_gb: float | None = None
    allocation_strategy: Strategy = Strategy.FAIR_SHARE
    global_eviction_policy: EvictionPolicy = EvictionPolicy.LRU
    model_priorities: dict[str, int] = {}
    per_model_quota: PerModelQuota = PerModelQuota()


def gb_bytes(gb: float) -> int:
    return round(gb * GB)


def priority(config: CacheAllocation, model: str) -> int:
    return config.model_priorities.get(model, DEFAULT_PRIORITY)


def changed(config: CacheAllocation, changes: Mapping[str, Any]) -> CacheAllocation:
    """The configuration after a partial change: what is not named stays, an object or a list is replaced as a whole.

    The three sizes hang together (global = RAM + SSD), so that a change of them decides anew which are set:

    - all three named: they must add up; RAM and SSD are kept, which say it all;
    - the global size alone: it is divided anew (:mod:`registry.cache.allocation`);
    - the global size and one other: the third is their difference;
    - RAM or SSD, or both, without the global size: the global size is their sum, if both are known then.

    Args:
        changes: typed values by field, as the API's and the admin's forms have parsed them; None is “not set”.

    Raises:
        InvalidRequest: naming the field; the sizes contradict each other.
    """
    plain = msgspec.to_builtins(config) | dict(changes) | _sizes(config, changes)
    return msgspec.convert(plain, CacheAllocation)


def without(config: CacheAllocation, known_models: Collection[str]) -> CacheAllocation:
    """Without the priorities of models that are gone: nobody should have to name them to change something else."""
    kept = {model: value for model, value in config.model_priorities.items() if model in known_models}
    return msgspec.structs.replace(config, model_priorities=kept)


def _sizes(config: CacheAllocation, changes: Mapping[str, Any]) -> dict[str, float | None]:
    """Of the three sizes at most two stay set."""
    named = {name: changes[name] for name in _SIZES if name in changes}
    size, ram, ssd = (named.get(name, getattr(config, name)) for name in _SIZES)
    if len(named) == len(_SIZES) or _SIZES[0] not in named:
        size = _global_size(size, ram, ssd, all_named=len(named) == len(_SIZES))
    elif size is not None:
        ram, ssd = named.get(_SIZES[1]), named.get(_SIZES[2])
    if size is not None:
        _refuse_more_than_all(size, ram, "global_cache_ram_gb")
        _refuse_more_than_all(size, ssd, "global_cache_ssd_gb")
    return dict(zip(_SIZES, (size, ram, ssd), strict=True))


def _global_size(size: float | None, ram: float | None, ssd: float | None, *, all_named: bool) -> float | None:
    """None where RAM and SSD say it."""
    if ram is None or ssd is None:
        return size
    if size is not None and all_named and abs(size - ram - ssd) > _ROUNDING_GB:
        raise InvalidRequest(
            f"'global_cache_size_gb' is RAM and SSD together: {ram:g} + {ssd:g} is {ram + ssd:g}, not {size:g}. "
            "Name two of the three.",
            param="global_cache_size_gb",
        )
    return None


def _refuse_more_than_all(size: float, part: float | None, name: str) -> None:
    if part is not None and part > size:
        raise InvalidRequest(
            f"'{name}' is {part:g}, more than 'global_cache_size_gb' ({size:g}), which is RAM and SSD together.",
            param=name,
        )
