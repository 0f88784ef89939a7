"""Writes of models' limits: each is a new revision, which gateways follow within a second."""

from collections.abc import Mapping
from typing import Any

import msgspec
import structlog
from django.db import transaction

from quotas import limits, selectors
from quotas.limits import ModelQuota
from quotas.models import Emergency, QuotaRevision
from quotas.selectors import Quota
from registry.cache.configuration import MB, gb_bytes
from registry.cache.services import cache_ceiling_clear, cache_ceiling_set
from registry.errors import InvalidRequest, NotFound
from registry.models import Model
from registry.services import model_named

log = structlog.get_logger(module="quotas")

_SIBLING = "degradation_policy.sibling"


@transaction.atomic
def quota_update(*, model: str, changes: Mapping[str, Any], author: str, comment: str = "") -> Quota:
    """Change what is named, and keep the result as the model's own limits. What was used of a window counts.

    Args:
        changes: as for :func:`quotas.limits.changed`.

    Raises:
        ModelNotFound: with the nearest ids.
        InvalidRequest: the soft limits do not ascend, or the sibling can't stand in.
    """
    locked = _locked(model)
    before = selectors.quota_find(model=locked)
    return _keep(locked, before, _changed(locked, before, changes), author=author, comment=comment)


def quota_checked(*, model: str, changes: Mapping[str, Any]) -> ModelQuota:
    """What :func:`quota_update` would make of a model's limits. Raises as that does."""
    found = model_named(name=model)
    return _changed(found, selectors.quota_find(model=found), changes)


@transaction.atomic
def quota_reset(*, model: str, author: str, comment: str = "gave up its own limits") -> Quota:
    """Give up a model's own limits: it has the default ones again, and follows them. What was used of a window counts.
    A model that has none of its own keeps its revision.

    Raises:
        ModelNotFound: with the nearest ids.
    """
    locked = _locked(model)
    return _keep(locked, selectors.quota_find(model=locked), None, author=author, comment=comment)


@transaction.atomic
def quota_restore(*, model: str, number: int, author: str) -> Quota:
    """Make earlier limits the newest ones: revision 0, and each that gave up the model's own, are the default ones.

    Raises:
        NotFound: there is no such revision.
        InvalidRequest: its sibling can't stand in any more.
    """
    locked = _locked(model)
    wanted = selectors.quota_value(selectors.quota_revision_find(model=locked, number=number)) if number else None
    before = selectors.quota_find(model=locked)
    checked = None if wanted is None else _sibling_checked(locked, wanted)
    return _keep(locked, before, checked, author=author, comment=f"restored from revision {number}")


def emergency_set(*, enabled: bool, reason: str = "", author: str) -> Emergency:
    """Declare an emergency, or end it: gateways follow within a second. Again is a row of its own: who said so last
    counts, and all is kept."""
    row = Emergency.objects.create(enabled=enabled, reason=reason.strip()[:500], author=author[:200])
    say = log.warning if enabled else log.info
    say("Emergency declared" if enabled else "Emergency ended", reason=row.reason, author=author)
    return row


def _changed(model: Model, before: Quota, changes: Mapping[str, Any]) -> ModelQuota:
    quota = limits.changed(before.quota, changes)
    return _sibling_checked(model, quota) if "degradation_policy" in changes else quota


def _sibling_checked(model: Model, quota: ModelQuota) -> ModelQuota:
    """With the sibling's own name, where another one was given. Two models may be each other's: a request goes one step
    only.

    Raises:
        InvalidRequest: there is no such model, it is the model itself, or it can do nothing of what that can.
    """
    name = quota.degradation_policy.sibling
    if name is None:
        return quota
    try:
        sibling = model_named(name=name)
    except NotFound as unknown:
        raise InvalidRequest(unknown.message, param=_SIBLING, code="model_not_found") from unknown
    if sibling == model:
        raise InvalidRequest(f"'{model.name}' can't be its own sibling: name another model.", param=_SIBLING)
    able, wanted = _capabilities(sibling), _capabilities(model)
    if able and wanted and able.isdisjoint(wanted):
        raise InvalidRequest(
            f"'{sibling.name}' does {', '.join(sorted(able))}, nothing of what '{model.name}' does: "
            f"{', '.join(sorted(wanted))}.",
            param=_SIBLING,
        )
    policy = msgspec.structs.replace(quota.degradation_policy, sibling=sibling.name)
    return msgspec.structs.replace(quota, degradation_policy=policy)


def _capabilities(model: Model) -> set[str]:
    """Of the version that serves; none are known before there is one."""
    return set(model.promoted.capabilities) if model.promoted else set()


def _locked(name: str) -> Model:
    """The model, which nobody else gives limits meanwhile: revisions have no gaps."""
    return Model.objects.select_for_update().get(pk=model_named(name=name).pk)


def _keep(model: Model, before: Quota, quota: ModelQuota | None, *, author: str, comment: str) -> Quota:
    """``quota``: None gives up the model's own."""
    if quota == (before.quota if before.own else None):
        return before
    number = before.revision + 1
    QuotaRevision.objects.create(
        model=model,
        number=number,
        quota=None if quota is None else msgspec.to_builtins(quota),
        author=author[:200],
        comment=comment[:500],
    )
    _cap_cache(model, quota)
    log.info("Limits changed", model_id=model.name, revision=number, author=author, own=quota is not None)
    return Quota(revision=number, quota=quota or selectors.quota_default_load(), own=quota is not None)


def _cap_cache(model: Model, quota: ModelQuota | None) -> None:
    """Its part of the cache follows its limits."""
    if quota is None:
        cache_ceiling_clear(model=model)
        return
    ssd_bytes = None if quota.max_ssd_gb is None else gb_bytes(quota.max_ssd_gb)
    ram_bytes = None if quota.max_ram_mb is None else quota.max_ram_mb * MB
    cache_ceiling_set(model=model, ram_bytes=ram_bytes, ssd_bytes=ssd_bytes)
