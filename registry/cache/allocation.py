"""Who gets how much of the KV cache: sizes and shares, from the configuration, the models' use and the machine. Pure.

**Sizes.** What is configured holds for each node; a node that has less uses what it
has, the *effective* size: at most its memory budget in RAM (``NOPENAI_NODE_RAM_MB``), at most :data:`MOST_OF_DISK` of
what its disk has free, its own cached blocks included. What is not configured:

    nothing            RAM: a quarter of the node's memory budget; SSD: a tenth of what its disk has free
    global size only   RAM: half of it, but no more than that quarter; SSD: the rest
    global and one     the other is the difference
    one of the two     the other is as if nothing was configured

**Shares.** A tenth of each tier is divided equally (:data:`MINIMUM_PART`), so that no model is ever starved; the other
nine tenths are divided by weights, which are the strategy's:

    fair_share       the same for every model
    proportional     prompt tokens of the last 24 hours
    priority_based   the model's priority, 0–10; 5 for models that are not named
    dynamic          demand of the last minutes (:func:`demand`)

While no weight is positive (nobody has asked for anything yet) the parts are equal. A model's own limits or, where it
has none, ``per_model_quota`` cap what it gets (:class:`Ceiling`), also below that minimum; what it leaves is divided
among the others by the same rule. Each byte is given to somebody, unless everybody has reached their cap. A share is
what a model is *owed*; what lies idle is lent to others (:mod:`registry.cache.eviction`).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import msgspec

from registry.cache.configuration import DEFAULT_PRIORITY, CacheAllocation, Strategy, gb_bytes, priority
from registry.cache.parts import divided

MINIMUM_PART = 10
"""One part in so many of each tier is divided equally."""

_DEFAULT_RAM_PART = 4
_DEFAULT_SSD_PART = 10
MOST_OF_DISK = 0.9
"""A disk that is full to the last byte stops everybody else on it, PostgreSQL first."""

DEMAND_HALF_LIFE_SECONDS = 300.0
DEMAND_WINDOW_SECONDS = 3600.0
"""After twelve half-lives nothing of a request is left."""
REQUEST_TOKENS = 64
"""What a request counts for in demand beside its prompt: a block's worth, so that short questions count, too."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A node, in bytes."""

    ram_bytes: int
    """Its budget for weights, contexts and cache together."""
    disk_bytes: int
    """Free on the disk of its data directory, its own cached blocks counted as free."""


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """Of one tier on one node, in bytes."""

    configured_bytes: int
    effective_bytes: int
    """What is used: the configured size, or what the machine has if that is less."""


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    ram: Size
    ssd: Size


class ModelUse(msgspec.Struct, frozen=True, kw_only=True):
    """How a model was used lately."""

    model: str
    day_prompt_tokens: int = 0
    """Of the last 24 hours."""
    demand: int = 0
    """Of the last minutes; :func:`demand`."""


class UseBucket(msgspec.Struct, frozen=True, kw_only=True):
    """What was counted of a model during five minutes."""

    age_seconds: float
    """Since its middle."""
    prompt_tokens: int
    requests: int


class Ceiling(msgspec.Struct, frozen=True, kw_only=True):
    """What a model never gets more than, in bytes; None: there is no such bound."""

    ram_bytes: int | None = None
    ssd_bytes: int | None = None


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is owed on a node, in bytes."""

    ram_bytes: int
    ssd_bytes: int
    why: str
    """For operators: the rule and the numbers that led here."""


def sizes(config: CacheAllocation, machine: Machine) -> Sizes:
    """How large the cache is on a node; see the module."""
    ram, ssd = _configured(config, machine)
    most_of_disk = int(machine.disk_bytes * MOST_OF_DISK)
    return Sizes(
        ram=Size(configured_bytes=ram, effective_bytes=min(ram, machine.ram_bytes)),
        ssd=Size(configured_bytes=ssd, effective_bytes=min(ssd, most_of_disk)),
    )


def ceiling(config: CacheAllocation, own: Mapping[str, Ceiling], model: str) -> Ceiling:
    """A model's own, or that of all who have none."""
    quota = config.per_model_quota
    return own.get(model) or Ceiling(ram_bytes=quota.ram_bytes, ssd_bytes=quota.ssd_bytes)


def shares(
    config: CacheAllocation,
    models: Sequence[ModelUse],
    machine: Machine,
    own_ceilings: Mapping[str, Ceiling] = MappingProxyType({}),
) -> dict[str, Share]:
    """What each model is owed on a node; see the module. The order of ``models`` breaks ties of a byte.

    Args:
        own_ceilings: of the models that have limits of their own, by id.
    """
    size = sizes(config, machine)
    weights, explain = _weighing(config, models)
    ceilings = [ceiling(config, own_ceilings, use.model) for use in models]
    ram = _divided(size.ram.effective_bytes, weights, [each.ram_bytes for each in ceilings])
    ssd = _divided(size.ssd.effective_bytes, weights, [each.ssd_bytes for each in ceilings])
    return {
        use.model: Share(
            ram_bytes=ram_bytes,
            ssd_bytes=ssd_bytes,
            why=explain(use) + _capped(top, ram_bytes, ssd_bytes, own=use.model in own_ceilings),
        )
        for use, ram_bytes, ssd_bytes, top in zip(models, ram, ssd, ceilings, strict=True)
    }


def demand(buckets: Iterable[UseBucket]) -> int:
    """Tokens asked for lately: prompt tokens, and :data:`REQUEST_TOKENS` for each request, halved every
    :data:`DEMAND_HALF_LIFE_SECONDS`. Smooth, so that one burst does not throw everybody else's blocks out."""
    return round(
        sum(
            (bucket.prompt_tokens + REQUEST_TOKENS * bucket.requests)
            * math.exp2(-max(0.0, bucket.age_seconds) / DEMAND_HALF_LIFE_SECONDS)
            for bucket in buckets
        )
    )


def worth_changing(old: Mapping[str, Share], new: Mapping[str, Share], size: Sizes) -> bool:
    """Whether shares have moved enough to disturb the workers: a model has come or gone, what was given is more than
    there is now, or somebody's part differs by more than a hundredth of a tier."""
    if old.keys() != new.keys():
        return True
    return _moved(
        [share.ram_bytes for share in old.values()], [new[model].ram_bytes for model in old], size.ram
    ) or _moved([share.ssd_bytes for share in old.values()], [new[model].ssd_bytes for model in old], size.ssd)


# --- Sizes -----------------------------------------------------------------------------------------------------------


def _configured(config: CacheAllocation, machine: Machine) -> tuple[int, int]:
    """RAM and SSD, in bytes."""
    usual_ram = machine.ram_bytes // _DEFAULT_RAM_PART
    usual_ssd = machine.disk_bytes // _DEFAULT_SSD_PART
    size, ram, ssd = (
        None if gb is None else gb_bytes(gb)
        for gb in (config.global_cache_size_gb, config.global_cache_ram_gb, config.global_cache_ssd_gb)
    )
    if size is not None and ram is None:
        ram = min(size // 2, usual_ram) if ssd is None else max(0, size - ssd)
    if size is not None and ram is not None and ssd is None:
        ssd = max(0, size - ram)
    return usual_ram if ram is None else ram, usual_ssd if ssd is None else ssd


# --- Weights ---------------------------------------------------------------------------------------------------------


def _weighing(config: CacheAllocation, models: Sequence[ModelUse]) -> tuple[list[int], Callable[[ModelUse], str]]:
    """The weight of each model, and how to explain it."""
    match config.allocation_strategy:
        case Strategy.FAIR_SHARE:
            return [1] * len(models), lambda use: f"fair_share: one of {len(models)} equal parts"
        case Strategy.PROPORTIONAL:
            used = [use.day_prompt_tokens for use in models]
            return (
                used,
                lambda use: (
                    f"proportional: {_part(use.day_prompt_tokens, used)} of the prompt tokens of the last 24 hours"
                ),
            )
        case Strategy.PRIORITY_BASED:
            priorities = [priority(config, use.model) for use in models]
            return (
                priorities,
                lambda use: (
                    f"priority_based: priority {priority(config, use.model)} of {sum(priorities)} in all"
                    + ("" if use.model in config.model_priorities else f" (not named, so {DEFAULT_PRIORITY})")
                ),
            )
        case Strategy.DYNAMIC:
            demands = [use.demand for use in models]
            return demands, lambda use: f"dynamic: {_part(use.demand, demands)} of the demand of the last minutes"


def _part(weight: int, weights: Sequence[int]) -> str:
    return f"{weight / sum(weights):.1%}" if any(weights) else "nobody's part yet"


def _capped(ceiling: Ceiling, ram_bytes: int, ssd_bytes: int, *, own: bool) -> str:
    """Which of the bounds a share has come to; empty: none."""
    owner = "its own " if own else "per_model_quota."
    bounds = (("max_ram_mb", ceiling.ram_bytes, ram_bytes), ("max_ssd_gb", ceiling.ssd_bytes, ssd_bytes))
    return "".join(f"; capped by {owner}{name}" for name, bound, given in bounds if bound == given)


# --- Shares ----------------------------------------------------------------------------------------------------------


def _divided(total: int, weights: Sequence[int], caps: Sequence[int | None]) -> list[int]:
    """The tier in parts: the minimum for everybody, the rest by weights, nobody above their cap."""
    if not weights:
        return []
    bounds = [total if cap is None else cap for cap in caps]
    minimum = total // (MINIMUM_PART * len(weights))
    first = [min(minimum, bound) for bound in bounds]
    room = [bound - part for bound, part in zip(bounds, first, strict=True)]
    rest = _by_weight(total - sum(first), weights, room)
    return [part + more for part, more in zip(first, rest, strict=True)]


def _by_weight(total: int, weights: Sequence[int], caps: Sequence[int]) -> list[int]:
    """By weights; what exceeds a cap again by weights among those below theirs, until nobody does or all do."""
    parts = [0] * len(weights)
    open_places = list(range(len(weights)))
    while open_places:
        of_open = [weights[place] for place in open_places]
        for place, part in zip(open_places, divided(total, of_open), strict=True):
            parts[place] = part
        full = [place for place in open_places if parts[place] >= caps[place]]
        if not full:
            return parts
        for place in full:
            parts[place] = caps[place]
            total -= caps[place]
        open_places = [place for place in open_places if place not in full]
    return parts


def _moved(old: Sequence[int], new: Sequence[int], size: Size) -> bool:
    noticeable = size.effective_bytes // 100
    return sum(old) > size.effective_bytes or any(
        abs(before - after) > noticeable for before, after in zip(old, new, strict=True)
    )
