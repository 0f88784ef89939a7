"""Writes: warm hours, and what they come to now."""

from datetime import datetime

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from registry.errors import InvalidRequest, NotFound
from registry.listing import version_find
from registry.models import Model, Replica, Version, WarmSchedule
from registry.schedules.windows import open_since
from registry.services import model_named


def schedules_list(*, name: str) -> QuerySet[WarmSchedule]:
    """Of a model, or of the one that an alias means. Raises ModelNotFound."""
    return WarmSchedule.objects.filter(model=_model(name)).select_related("model", "version")


def schedule_add(*, name: str, version: str | None, opens: str, closes: str, time_zone: str = "UTC") -> WarmSchedule:
    """Keep a model loaded during these hours, from now on if they last.

    Args:
        version: its number. None: whichever is promoted.

    Raises:
        ModelNotFound, NotFound: there is no such model, or version of it.
        InvalidRequest: it is answered elsewhere.
    """
    model = _model(name)
    chosen = None if version is None else version_find(name=model.name, number=version)
    kept = chosen or model.promoted
    if kept is not None and kept.source == Version.Source.REMOTE:
        raise InvalidRequest(f"{kept} is answered elsewhere: there is nothing to load here.", param="version")
    schedule = WarmSchedule.objects.create(model=model, version=chosen, opens=opens, closes=closes, time_zone=time_zone)
    schedules_evaluate()
    schedule.refresh_from_db()
    return schedule


def schedule_remove(*, name: str, key: int) -> None:
    """What it kept loaded is on demand from now on. Raises ModelNotFound, NotFound."""
    deleted, _ = schedules_list(name=name).filter(pk=key).delete()
    if not deleted:
        known = ", ".join(str(pk) for pk in schedules_list(name=name).values_list("pk", flat=True)) or "none"
        raise NotFound(f"'{name}' has no schedule {key}; it has: {known}.", param="schedule")


def schedules_evaluate(*, now: datetime | None = None) -> int:
    """Write down which warm hours last now. Whatever was missed, this is what holds: nothing depends on when it was
    called last.

    An operator's unload is stronger than the hours in which it was made; the next ones overrule it.

    Returns:
        Of how many schedules that changed something.
    """
    now = now or timezone.now()
    return sum(
        _evaluate(schedule, now) for schedule in WarmSchedule.objects.select_related("version", "model__promoted")
    )


def _model(name: str) -> Model:
    named = model_named(name=name)
    return named.alias_of or named


def _evaluate(schedule: WarmSchedule, now: datetime) -> bool:
    since = open_since(schedule.hours, now)
    changed = since != schedule.open_since
    with transaction.atomic():
        if changed:
            WarmSchedule.objects.filter(pk=schedule.pk).update(open_since=since)
        if since is not None:
            _forget_stops(schedule, before=since)
    return changed


def _forget_stops(schedule: WarmSchedule, *, before: datetime) -> None:
    version = schedule.version or schedule.model.promoted
    if version is None:
        return
    earlier = Q(desired_at__lt=before) | Q(desired_at=None)
    stopped = Replica.objects.filter(earlier, version=version, desired=Replica.Desired.STOPPED)
    stopped.update(desired=Replica.Desired.ON_DEMAND)
