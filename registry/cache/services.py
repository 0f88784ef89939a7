"""Writes of the KV cache's control plane. Keyword-only, transactional, and only what really changes.

Whoever changes what shares depend on waits for the others who do (:func:`_one_at_a_time`), so revisions have no gaps
and shares of two configurations are never mixed. PostgreSQL announces both to the supervisors (triggers of
migration 0003), which act by :func:`cache_node_current` within a second.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import structlog
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from registry.cache import allocation, configuration, selectors
from registry.cache.allocation import Share
from registry.cache.configuration import CacheAllocation
from registry.cache.models import CacheCeiling, CacheRevision, CacheShare, CacheUse, SharedPrompt
from registry.cache.selectors import BUCKET, Configured, NodeCache
from registry.errors import Conflict, InvalidRequest, ModelNotFound
from registry.models import Model, Node
from registry.services import model_named

log = structlog.get_logger(module="cache")

USE_KEPT = timedelta(hours=25)
"""A day is looked at; the hour beside it is for clocks that differ."""


class UseCount(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked of a model since it was last counted."""

    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens that were not computed."""
    requests: int


# --- Configuration ---------------------------------------------------------------------------------------------------


@transaction.atomic
def cache_allocation_update(*, changes: Mapping[str, Any], author: str, comment: str = "") -> Configured:
    """Change what is named, keep the result as a revision, and divide anew. Nothing new makes no revision.

    Args:
        changes: as for :func:`registry.cache.configuration.changed`.

    Raises:
        InvalidRequest: naming the field: sizes that contradict each other, a model that is not known.
    """
    _one_at_a_time()
    before = selectors.cache_configured_load()
    after = cache_allocation_changed(config=before.config, changes=changes)
    return _keep(after, before, author=author, comment=comment)


def cache_allocation_changed(*, config: CacheAllocation, changes: Mapping[str, Any]) -> CacheAllocation:
    """What a change would make of a configuration. Raises as :func:`cache_allocation_update`; writes nothing."""
    if "model_priorities" in changes:
        changes = {**changes, "model_priorities": _of_known_models(changes["model_priorities"])}
    return configuration.changed(_without_vanished_models(config), changes)


@transaction.atomic
def cache_allocation_restore(*, number: int, author: str) -> Configured:
    """Make an earlier configuration the newest one. Priorities of models that are gone since are left out.

    Raises:
        NotFound: naming the revisions there are.
    """
    _one_at_a_time()
    wanted = selectors.config_value(selectors.cache_revision_find(number=number))
    before = selectors.cache_configured_load()
    return _keep(_without_vanished_models(wanted), before, author=author, comment=f"restored from revision {number}")


def _keep(config: CacheAllocation, before: Configured, *, author: str, comment: str) -> Configured:
    if config == before.config:
        return before
    if before.revision == 0:
        # What was in force until now can be restored, too.
        defaults = {"config": msgspec.to_builtins(before.config), "comment": "the defaults"}
        CacheRevision.objects.get_or_create(number=0, defaults=defaults)
    number = before.revision + 1
    CacheRevision.objects.create(
        number=number, config=msgspec.to_builtins(config), author=author[:200], comment=comment[:500]
    )
    _divide(force=True)
    log.info("Cache allocation changed", revision=number, author=author, strategy=config.allocation_strategy)
    return Configured(revision=number, config=config)


def _of_known_models(priorities: Mapping[str, int]) -> dict[str, int]:
    """By the ids of the models themselves: an alias leads to what it stands for."""
    known = {}
    for name, priority in priorities.items():
        try:
            known[model_named(name=name).name] = priority
        except ModelNotFound as fault:
            raise InvalidRequest(fault.message, param=f"model_priorities.{name}", code="model_not_found") from fault
    return known


def _without_vanished_models(config: CacheAllocation) -> CacheAllocation:
    return configuration.without(config, set(Model.objects.values_list("name", flat=True)))


# --- Shares ----------------------------------------------------------------------------------------------------------


@transaction.atomic
def cache_ceiling_set(*, model: Model, ram_bytes: int | None, ssd_bytes: int | None) -> None:
    """What a model never gets more of on a node; None: no bound, whatever that of other models is. Divides anew."""
    _one_at_a_time()
    CacheCeiling.objects.update_or_create(model=model, defaults={"ram_bytes": ram_bytes, "ssd_bytes": ssd_bytes})
    _divide(force=True)


@transaction.atomic
def cache_ceiling_clear(*, model: Model) -> None:
    """It has no bound of its own any more, but that of all who have none. Divides anew."""
    _one_at_a_time()
    CacheCeiling.objects.filter(model=model).delete()
    _divide(force=True)


@transaction.atomic
def cache_rebalance() -> list[str]:
    """Divide every node's cache anew, where that changes something worth it.

    Returns:
        The nodes whose shares have changed.
    """
    _one_at_a_time()
    return _divide(force=False)


def cache_node_current(*, node: str) -> NodeCache | None:
    """What a node's supervisor is to act by, with a share for each model there is now; None: it is not registered.

    Models come and go by scans and operators, which know nothing of the cache; so it is looked at here, and by Celery
    every minute, whether all have a share.
    """
    found = selectors.cache_node_load(node=node)
    if found is None or _complete([found]):
        return found
    cache_rebalance()
    return selectors.cache_node_load(node=node)


def cache_nodes_current() -> list[NodeCache]:
    """:func:`cache_node_current` of every node, by name."""
    found = selectors.cache_nodes_load()
    if _complete(found):
        return found
    cache_rebalance()
    return selectors.cache_nodes_load()


def _complete(nodes: Sequence[NodeCache]) -> bool:
    models = set(selectors.cached_models().values_list("name", flat=True))
    return all(set(node.shares) == models for node in nodes)


def _divide(*, force: bool) -> list[str]:
    config = selectors.cache_config_load()
    uses = selectors.model_uses_load()
    ceilings = selectors.cache_ceilings_load()
    changed = []
    for node in Node.objects.all():
        machine = selectors.machine(node)
        new = allocation.shares(config, uses, machine, ceilings)
        old = selectors.cache_shares_load(node=node.name)
        if force or allocation.worth_changing(old, new, allocation.sizes(config, machine)):
            _write_shares(node, new)
            changed.append(node.name)
    return changed


def _write_shares(node: Node, shares: Mapping[str, Share]) -> None:
    models = dict(Model.objects.filter(name__in=shares).values_list("name", "pk"))
    now = timezone.now()
    CacheShare.objects.filter(node=node).exclude(model__in=models.values()).delete()
    CacheShare.objects.bulk_create(
        [
            CacheShare(
                node=node,
                model_id=pk,
                ram_bytes=shares[name].ram_bytes,
                ssd_bytes=shares[name].ssd_bytes,
                why=shares[name].why,
                computed_at=now,
            )
            for name, pk in models.items()
        ],
        update_conflicts=True,
        unique_fields=["node", "model"],
        update_fields=["ram_bytes", "ssd_bytes", "why", "computed_at"],
    )


def _one_at_a_time() -> None:
    """Until the transaction ends."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('nopenai'), hashtext('cache'))")


# --- Use -------------------------------------------------------------------------------------------------------------


def cache_use_add(*, counts: Mapping[str, UseCount], now: datetime | None = None) -> None:
    """Add what models were asked to the bucket of five minutes that ``now`` lies in; ids that no longer exist are
    passed over. One statement, never announced. Nodes may call it at once: their counts are summed."""
    asked = sorted((name, count) for name, count in counts.items() if count.requests or count.prompt_tokens)
    if not asked:
        return
    names = [name for name, _ in asked]
    numbers = [
        (count.prompt_tokens, min(count.cached_tokens, count.prompt_tokens), count.requests) for _, count in asked
    ]
    prompt_tokens, cached_tokens, requests = (list(column) for column in zip(*numbers, strict=True))
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO registry_cacheuse AS u (model_id, bucket, prompt_tokens, cached_tokens, requests)"
            " SELECT coalesce(m.alias_of_id, m.id), %s,"
            " sum(added.prompt_tokens), sum(added.cached_tokens), sum(added.requests)"
            " FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::bigint[])"
            " AS added (name, prompt_tokens, cached_tokens, requests) JOIN registry_model m ON m.name = added.name"
            # In the order of the keys, so that two nodes at once can't deadlock.
            " GROUP BY 1 ORDER BY 1"
            " ON CONFLICT (model_id, bucket) DO UPDATE SET (prompt_tokens, cached_tokens, requests) ="
            " (u.prompt_tokens + EXCLUDED.prompt_tokens, u.cached_tokens + EXCLUDED.cached_tokens,"
            " u.requests + EXCLUDED.requests)",
            [_bucket(now or timezone.now()), names, prompt_tokens, cached_tokens, requests],
        )


def cache_use_prune(*, now: datetime | None = None) -> int:
    """Forget what no strategy looks at any more. Returns how many rows that were."""
    return CacheUse.objects.filter(bucket__lt=(now or timezone.now()) - USE_KEPT).delete()[0]


def _bucket(now: datetime) -> datetime:
    seconds = BUCKET.total_seconds()
    return datetime.fromtimestamp(now.timestamp() // seconds * seconds, tz=now.tzinfo)


# --- Shared prompts --------------------------------------------------------------------------------------------------


def shared_prompt_create(*, name: str, text: str, enabled: bool = True) -> SharedPrompt:
    """Declare that a system prompt holds nothing of any tenant, so that all of them share its cached blocks.

    Raises:
        InvalidRequest: the name or the text is empty.
        Conflict: the name is taken.
    """
    try:
        with transaction.atomic():
            return SharedPrompt.objects.create(name=_name(name), text=_text(text), enabled=enabled)
    except IntegrityError as fault:
        raise Conflict(f"There is a shared prompt named '{name.strip()}' already.", param="name") from fault


def shared_prompt_update(*, name: str, text: str | None = None, enabled: bool | None = None) -> SharedPrompt:
    """Change what is not None; gateways follow within a second.

    Raises:
        NotFound: there is no such prompt.
        InvalidRequest: the text is empty.
    """
    pk = selectors.shared_prompt_find(name=name).pk
    named = {"text": None if text is None else _text(text), "enabled": enabled}
    changes = {field: value for field, value in named.items() if value is not None}
    if changes:
        SharedPrompt.objects.filter(pk=pk).update(**changes)
    return selectors.shared_prompt_find(name=name)


def shared_prompt_delete(*, name: str) -> None:
    """Tenants share it no longer. Raises NotFound."""
    selectors.shared_prompt_find(name=name).delete()


def _name(name: str) -> str:
    name = name.strip()
    if not name or not name.isprintable() or len(name) > 100:
        raise InvalidRequest("A shared prompt needs a name of 1 to 100 printable characters.", param="name")
    return name


def _text(text: str) -> str:
    """As it is: a request must equal it to the letter."""
    if not text.strip():
        raise InvalidRequest("A shared prompt needs a text: that of the system message to be shared.", param="text")
    return text
