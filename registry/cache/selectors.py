"""Reads of the KV cache's control plane, as plain values."""

import shutil
from collections import defaultdict
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from django.conf import settings
from django.db.models import Q, QuerySet, Sum
from django.utils import timezone

from registry.cache import allocation
from registry.cache.allocation import Ceiling, Machine, ModelUse, Share, Sizes, UseBucket
from registry.cache.configuration import MB, CacheAllocation
from registry.cache.models import CacheCeiling, CacheRevision, CacheShare, CacheUse, SharedPrompt
from registry.errors import NotFound
from registry.models import Model, Node, Version

BUCKET = timedelta(minutes=5)
"""What use is counted by; SQL keeps to it, too."""
DAY = timedelta(hours=24)

_DISK_GRAIN_BYTES = 256 * MB
"""So that shares don't follow every file that somebody writes."""


class Configured(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration in force. Revision 0 is the defaults, before anybody changed them."""

    revision: int
    config: CacheAllocation


class NodeCache(msgspec.Struct, frozen=True, kw_only=True):
    """All that is decided about one node's cache."""

    node: str
    config: CacheAllocation
    sizes: Sizes
    shares: dict[str, Share]
    """By the model's id. They sum to at most ``sizes``."""
    ceilings: dict[str, Ceiling] = {}
    """Of the models that have limits of their own, by id."""


def cache_configured_load() -> Configured:
    newest = CacheRevision.objects.first()
    if newest is None:
        return Configured(revision=0, config=CacheAllocation())
    return Configured(revision=newest.number, config=config_value(newest))


def cache_config_load() -> CacheAllocation:
    return cache_configured_load().config


def cache_shares_load(*, node: str) -> dict[str, Share]:
    """What each model is owed on a node, as it was last divided (``registry.cache.services.cache_rebalance``)."""
    rows = CacheShare.objects.filter(node__name=node).order_by("model__name")
    return {
        model: Share(ram_bytes=ram_bytes, ssd_bytes=ssd_bytes, why=why)
        for model, ram_bytes, ssd_bytes, why in rows.values_list("model__name", "ram_bytes", "ssd_bytes", "why")
    }


def cache_ceilings_load() -> dict[str, Ceiling]:
    """Of the models that have limits of their own, by id."""
    rows = CacheCeiling.objects.values_list("model__name", "ram_bytes", "ssd_bytes")
    return {name: Ceiling(ram_bytes=ram_bytes, ssd_bytes=ssd_bytes) for name, ram_bytes, ssd_bytes in rows}


def cache_node_load(*, node: str) -> NodeCache | None:
    """What a node's supervisor acts by; None for a node that is not registered."""
    row = Node.objects.filter(name=node).first()
    if row is None:
        return None
    config = cache_config_load()
    size = allocation.sizes(config, machine(row))
    return NodeCache(
        node=node,
        config=config,
        sizes=size,
        shares=cache_shares_load(node=node),
        ceilings=cache_ceilings_load(),
    )


def cache_nodes_load() -> list[NodeCache]:
    """Every node that is registered, by name."""
    found = (cache_node_load(node=name) for name in Node.objects.values_list("name", flat=True))
    return [each for each in found if each is not None]


def cache_revisions_list() -> QuerySet[CacheRevision]:
    """Newest first."""
    return CacheRevision.objects.all()


def cache_revision_find(*, number: int) -> CacheRevision:
    """Raises NotFound, naming those there are."""
    row = CacheRevision.objects.filter(number=number).first()
    if row is None:
        newest = cache_configured_load().revision
        known = f"0 to {newest}" if CacheRevision.objects.exists() else "none: nothing was changed yet"
        raise NotFound(f"There is no cache revision {number}; there are: {known}.", param="number")
    return row


def shared_prompts_list() -> QuerySet[SharedPrompt]:
    return SharedPrompt.objects.all()


def shared_prompt_find(*, name: str) -> SharedPrompt:
    """Raises NotFound."""
    row = SharedPrompt.objects.filter(name=name.replace("\0", "\ufffd")).first()
    if row is None:
        raise NotFound(f"There is no shared prompt '{name}'.", param="name")
    return row


def shared_prompts_load() -> frozenset[str]:
    """The texts that all tenants may share, for the gateway's snapshot."""
    return frozenset(SharedPrompt.objects.filter(enabled=True).values_list("text", flat=True))


# --- For the division ------------------------------------------------------------------------------------------------


def config_value(row: CacheRevision) -> CacheAllocation:
    return msgspec.convert(row.config, CacheAllocation)


def cached_models() -> QuerySet[Model]:
    """Those that have something to cache: enabled, with a file, generating text. An alias has nothing of its own."""
    generates = Q(versions__capabilities__contains=["completion"]) & Q(versions__file_state=Version.FileState.PRESENT)
    here = Q(versions__source__in=(Version.Source.DISCOVERED, Version.Source.REGISTERED))
    return Model.objects.filter(generates & here, alias_of=None, enabled=True).distinct().order_by("name")


def machine(node: Node) -> Machine:
    """What the cache may count on there. A node that has not told about its disk is taken to have ours."""
    disk_bytes = _free_bytes(settings.NOPENAI.data_dir) if node.disk_bytes is None else node.disk_bytes
    return Machine(ram_bytes=node.ram_budget_mb * MB, disk_bytes=disk_bytes // _DISK_GRAIN_BYTES * _DISK_GRAIN_BYTES)


def model_uses_load(*, now: datetime | None = None) -> list[ModelUse]:
    """How the models that have something to cache were used, by name."""
    now = now or timezone.now()
    recent: dict[int, list[UseBucket]] = defaultdict(list)
    since = now - timedelta(seconds=allocation.DEMAND_WINDOW_SECONDS)
    for row in CacheUse.objects.filter(bucket__gt=since):
        age = (now - row.bucket - BUCKET / 2).total_seconds()
        recent[row.model_id].append(
            UseBucket(age_seconds=max(0.0, age), prompt_tokens=row.prompt_tokens, requests=row.requests)
        )
    of_day = CacheUse.objects.filter(bucket__gt=now - DAY).values_list("model").annotate(Sum("prompt_tokens"))
    day: dict[int, int] = dict(of_day)
    return [
        ModelUse(model=name, day_prompt_tokens=day.get(pk, 0), demand=allocation.demand(recent[pk]))
        for pk, name in cached_models().values_list("pk", "name")
    ]


def _free_bytes(folder: Path) -> int:
    """On the disk where the folder is, or will be."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free
