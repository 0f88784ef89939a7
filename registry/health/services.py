"""Writes of health: what nodes tell, what a check finds, and how long its history is kept.

A check looks, decides and writes. It looks outside any transaction; it writes only what differs, and of each version
only if nobody else has changed it meanwhile: then the next check will see.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import structlog
from django.db import connection, transaction
from django.db.models import Max, Q
from django.utils import timezone

from registry import locks
from registry.backends.services import backends_check
from registry.catalogue import Health
from registry.health import disk
from registry.health.judgement import Deployed, Judged, Seen, Standing, judge
from registry.health.models import HealthSweep, HealthTransition, VersionHealth
from registry.health.vitals import Vitals, windows_added
from registry.models import Node, Replica, Version
from registry.scanning import models_scan
from registry.services import model_named

log = structlog.get_logger(module="health")

HEARD_WITHIN = timedelta(seconds=60)
"""A node that was not heard of for so long says nothing any more of what it serves."""

KEPT = timedelta(days=30)
MOST_KEPT = 1000
"""Transitions of a version."""

_DEPLOYED = (
    Replica.Observed.LOADING,
    Replica.Observed.READY,
    Replica.Observed.DRAINING,
    Replica.Observed.FAILED,
)
_LEVELS = {Health.UNHEALTHY: logging.ERROR, Health.DEGRADED: logging.WARNING}


# --- What nodes tell -------------------------------------------------------------------------------------------------


def vitals_record(*, node: str, vitals: Iterable[Vitals]) -> None:
    """What a supervisor tells of its replicas; of those that have no row nothing is kept."""
    told = [(each.version_pk, msgspec.json.encode(each).decode()) for each in vitals]
    if not told:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO registry_replicavitals (replica_id, vitals, told_at)"
            " SELECT r.id, told.vitals::jsonb, now()"
            " FROM unnest(%s::bigint[], %s::text[]) AS told (version_id, vitals)"
            " JOIN registry_replica r ON r.version_id = told.version_id JOIN registry_node n ON n.id = r.node_id"
            " WHERE n.name = %s"
            " ON CONFLICT (replica_id) DO UPDATE SET (vitals, told_at) = (EXCLUDED.vitals, EXCLUDED.told_at)",
            [[pk for pk, _ in told], [text for _, text in told], node],
        )


# --- The check -------------------------------------------------------------------------------------------------------


def health_check(
    *,
    models_dirs: Sequence[Path],
    starter_model: bool,
    versions: Sequence[int] | None = None,
    forced: bool = False,
    now: float | None = None,
) -> int:
    """Check the health of versions, and write down what changed.

    What is deployed is looked at in all respects, the rest only on disk. A file that is not what it was is the scan's
    to judge, which is made at once.

    Args:
        versions: their primary keys; None: all.
        forced: somebody asked for it: wait for a check that is under way, scan whatever seems to have changed, and ask
            anew whether what failed still does.
        now: seconds since the epoch; None: what the clock says.

    Returns:
        How many versions were looked at; 0 where another check was under way.
    """
    with locks.lock_tried(locks.HEALTH) as mine:
        if mine:
            return _check(models_dirs, starter_model, versions, forced, now)
    if not forced:
        return 0
    with locks.locked(locks.HEALTH):
        return _check(models_dirs, starter_model, versions, forced, now)


def model_check(*, name: str | None, models_dirs: Sequence[Path], starter_model: bool) -> None:
    """Check all versions of a model, or of all models, because somebody wants to know: backends elsewhere, too.

    Raises:
        ModelNotFound: with the nearest ids.
    """
    pks = None if name is None else list(model_named(name=name).versions.values_list("pk", flat=True))
    backends_check(versions=pks)
    health_check(models_dirs=models_dirs, starter_model=starter_model, versions=pks, forced=True)


def _check(
    models_dirs: Sequence[Path], starter_model: bool, pks: Sequence[int] | None, forced: bool, given: float | None
) -> int:
    known = _versions(pks)
    present = (version for version in known if version.file_state == Version.FileState.PRESENT)
    if forced or any(map(disk.has_changed, present)):
        models_scan(models_dirs=models_dirs, starter_model=starter_model)
        known = _versions(pks)
    now = time.time() if given is None else given
    replicas = _replicas(known)
    standings = dict(VersionHealth.objects.values_list("version_id", "standing"))
    largest = Node.objects.aggregate(largest=Max("ram_budget_mb"))["largest"] or 0
    for version in known:
        rows = replicas.get(version.pk, [])
        seen = _seen(version, rows, largest << 20, forced=forced)
        before = msgspec.convert(standings.get(version.pk, {}), Standing)
        judged = judge(before, seen, now)
        kept = _is_deployed(rows) or judged.standing != Standing()
        # Of thousands that are fine on disk nothing is written.
        if kept or version.pk in standings or judged.health != version.health:
            _settle(version, before, judged, kept=kept, now=now)
    if pks is None:
        HealthSweep.objects.update_or_create(pk=1, defaults={"finished_at": _moment(now)})
    return len(known)


def _versions(pks: Sequence[int] | None) -> list[Version]:
    """All that could be served from here, and what is deployed nevertheless."""
    rows = Version.objects.exclude(source=Version.Source.REMOTE).select_related("model").order_by("pk")
    rows = rows.defer("parameters", "capabilities", "created_at", "model__extra_capabilities", "model__created_at")
    if pks is not None:
        return list(rows.filter(pk__in=pks))
    deployed = Q(pk__in=Replica.objects.filter(observed__in=_DEPLOYED).values("version_id"))
    checked = Q(pk__in=VersionHealth.objects.values("version_id"))
    return list(rows.filter(Q(file_state=Version.FileState.PRESENT) | deployed | checked))


def _replicas(versions: Iterable[Version]) -> dict[int, list[Replica]]:
    """Of nodes that are heard of, by version."""
    heard = Replica.objects.filter(node__last_seen_at__gt=timezone.now() - HEARD_WITHIN)
    by_version: dict[int, list[Replica]] = {}
    wanted = {version.pk for version in versions}
    for replica in heard.filter(Q(observed__in=_DEPLOYED) | Q(vitals__isnull=False)).select_related("node", "vitals"):
        if replica.version_id in wanted:
            by_version.setdefault(replica.version_id, []).append(replica)
    return by_version


def _is_deployed(rows: Iterable[Replica]) -> bool:
    return any(row.observed in _DEPLOYED for row in rows)


def _seen(version: Version, rows: Sequence[Replica], largest_budget_bytes: int, *, forced: bool) -> Seen:
    told = {row.pk: msgspec.convert(row.vitals.vitals, Vitals) for row in rows if hasattr(row, "vitals")}
    return Seen(
        file_fault=disk.fault_of(version, thoroughly=_is_deployed(rows) or version.health == Health.UNHEALTHY),
        hashed=version.sha256 != "" and version.hashed_modified_ns == version.modified_ns,
        size_bytes=version.size_bytes,
        largest_budget_bytes=largest_budget_bytes,
        replicas=tuple(_deployed(row, told.get(row.pk)) for row in rows),
        window=windows_added(vitals.window for vitals in told.values()),
        forced=forced,
    )


def _deployed(row: Replica, vitals: Vitals | None) -> Deployed:
    return Deployed(
        node=row.node.name,
        state=row.observed,
        reason=row.reason,
        since=0.0 if row.observed_at is None else row.observed_at.timestamp(),
        missed=0 if vitals is None else vitals.missed,
        failures=0 if vitals is None else vitals.failures,
        memory_bytes=None if vitals is None else vitals.memory_bytes,
        budget_bytes=row.node.ram_budget_mb << 20,
    )


def _settle(version: Version, before: Standing, judged: Judged, *, kept: bool, now: float) -> None:
    log.debug(
        "Health checked",
        model_id=version.model.name,
        version=version.number,
        health=judged.health.value,
        checks={check.name.value: f"{check.result.value}: {check.reason}" for check in judged.checks},
    )
    with transaction.atomic():
        if not _bring_to(version, before, judged, now):
            return
        if kept:
            VersionHealth.objects.update_or_create(
                version_id=version.pk,
                defaults={
                    "checks": msgspec.to_builtins(judged.checks),
                    "standing": msgspec.to_builtins(judged.standing),
                },
            )
        else:
            VersionHealth.objects.filter(version_id=version.pk).delete()
    if judged.health != version.health:
        log.log(
            _LEVELS.get(judged.health, logging.INFO),
            f"Model {judged.health.value}: {version.model.name}",
            model_id=version.model.name,
            version=version.number,
            before=version.health,
            reason=judged.reason,
        )


def _bring_to(version: Version, before: Standing, judged: Judged, now: float) -> bool:
    """Whether the version is still the one that was looked at.

    What is wrong with a file the scan has said in its own words. A reason stays as it was first told while its cause
    stays: its numbers change with every check, and each change would have all gateways read everything anew. The checks
    tell the newest.
    """
    changes: dict[str, object] = {"health_checked_at": _moment(now)}
    unchanged = judged.health == version.health and judged.standing.because == before.because
    if version.file_state == Version.FileState.PRESENT and not unchanged:
        changes |= {"health": judged.health.value, "health_reason": judged.reason}
    as_seen = Version.objects.filter(pk=version.pk, file_state=version.file_state, health=version.health)
    return as_seen.update(**changes) > 0


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


# --- History ---------------------------------------------------------------------------------------------------------


def history_prune() -> int:
    """Forget transitions of more than 30 days ago, and of each version all but the newest 1,000.

    Returns:
        How many were forgotten.
    """
    old, _ = HealthTransition.objects.filter(at__lt=timezone.now() - KEPT).delete()
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM registry_healthtransition WHERE id IN (SELECT id FROM (SELECT id,"
            " row_number() OVER (PARTITION BY version_id ORDER BY at DESC, id DESC) AS place"
            " FROM registry_healthtransition) AS placed WHERE place > %s)",
            [MOST_KEPT],
        )
        return old + int(cursor.rowcount)
