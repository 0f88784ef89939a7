"""Writes of models' limits: each is a new revision, which gateways follow within a second."""

from collections.abc import Mapping
from typing import Any

import msgspec
import structlog
from django.db import transaction

from quotas import limits, selectors
from quotas.limits import ModelQuota
from quotas.models import QuotaRevision
from quotas.selectors import Quota
from registry.cache.configuration import MB, gb_bytes
from registry.cache.services import cache_ceiling_set
from registry.models import Model
from registry.services import model_named

log = structlog.get_logger(module="quotas")


@transaction.atomic
def quota_update(*, model: str, changes: Mapping[str, Any], author: str, comment: str = "") -> Quota:
    """Change what is named, and keep the result as the model's own limits. What was used of a window counts.

    Args:
        changes: as for :func:`quotas.limits.changed`.

    Raises:
        ModelNotFound: with the nearest ids.
    """
    locked = _locked(model)
    before = selectors.quota_find(model=locked)
    return _keep(locked, before, limits.changed(before.quota, changes), author=author, comment=comment)


@transaction.atomic
def quota_restore(*, model: str, number: int, author: str) -> Quota:
    """Make earlier limits the newest ones. Raises NotFound."""
    locked = _locked(model)
    wanted = selectors.quota_value(selectors.quota_revision_find(model=locked, number=number))
    before = selectors.quota_find(model=locked)
    return _keep(locked, before, wanted, author=author, comment=f"restored from revision {number}")


def _locked(name: str) -> Model:
    """The model, which nobody else gives limits meanwhile: revisions have no gaps."""
    return Model.objects.select_for_update().get(pk=model_named(name=name).pk)


def _keep(model: Model, before: Quota, quota: ModelQuota, *, author: str, comment: str) -> Quota:
    if before.revision and quota == before.quota:
        return before
    number = before.revision + 1
    QuotaRevision.objects.create(
        model=model,
        number=number,
        quota=msgspec.to_builtins(quota),
        author=author[:200],
        comment=comment[:500],
    )
    ssd_bytes = None if quota.max_ssd_gb is None else gb_bytes(quota.max_ssd_gb)
    ram_bytes = None if quota.max_ram_mb is None else quota.max_ram_mb * MB
    cache_ceiling_set(model=model, ram_bytes=ram_bytes, ssd_bytes=ssd_bytes)
    log.info("Limits changed", model_id=model.name, revision=number, author=author)
    return Quota(revision=number, quota=quota)
