"""Reads of health: for the gateways, and for operators."""

from collections.abc import Sequence

import msgspec
from django.db.models import QuerySet

from registry import catalogue
from registry.health.models import HealthSweep, HealthTransition, VersionHealth
from registry.health.report import Checks, HealthNews, checks_of
from registry.models import Model
from registry.selectors import catalogue_load


class ModelHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How the version is doing that a model's id means; where none is promoted, the newest."""

    model_id: str
    version: str | None
    health_status: catalogue.Health
    reason: str
    checks: Checks


def health_load() -> HealthNews:
    """What the last check has found. A few rows, of what is deployed."""
    swept = HealthSweep.objects.first()
    rows = VersionHealth.objects.values_list("version_id", "checks")
    return HealthNews(
        checked_at=None if swept is None else swept.finished_at.timestamp(),
        checks={pk: msgspec.convert(checks, Checks) for pk, checks in rows},
    )


def models_health(*, names: Sequence[str] | None = None) -> list[ModelHealth]:
    """Of these models, or of all but aliases, by id."""
    news, known = health_load(), catalogue_load().models
    wanted = [known[name] for name in names if name in known] if names is not None else known.values()
    return [_model_health(model, news) for model in wanted if names is not None or model.alias_of is None]


def _model_health(model: catalogue.Model, news: HealthNews) -> ModelHealth:
    version = model.promoted or next(iter(model.versions.values()), None)
    return ModelHealth(
        model_id=model.id,
        version=None if version is None else version.version,
        health_status=catalogue.Health.UNKNOWN if version is None else version.health,
        reason="it has no version" if version is None else version.health_reason,
        checks=() if version is None else checks_of(version, news),
    )


def history_list(*, model: Model) -> QuerySet[HealthTransition]:
    """What became of a model's versions, newest first."""
    return HealthTransition.objects.filter(version__model=model.alias_of or model).select_related("version__model")
