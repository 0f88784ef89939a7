"""Reads of the registry: what the planes get to see, as the plain values of :mod:`registry.catalogue`."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from sys import intern
from typing import Literal

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F, Q
from django.db.models.functions import Coalesce

from registry import catalogue, models
from registry.nodes.homes import homes
from registry.nodes.selectors import nodes_left, nodes_present
from registry.parameters import Parameters

_ROWS = 200
_NO_PARAMETERS: Parameters = {}
"""Of thousands of models most have none."""


def revision_read() -> int:
    """The revision of the tables of registry and quotas: it grows with every change of them.

    A sequence moves before its transaction commits, so equality with a revision seen earlier proves nothing by itself;
    compare with what :func:`catalogue_load` returned, which takes that into account.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT last_value FROM nopenai_revision")
        (revision,) = cursor.fetchone()
    return int(revision)


def catalogue_load() -> catalogue.Catalogue:
    """Everything that clients may ask for, from one consistent read of SQL.

    Its revision is never ahead of its content: while a writer has bumped the sequence but not yet committed, the
    catalogue is labelled with the revision before, so that the next comparison with :func:`revision_read` differs
    and it is loaded again.
    """
    revision = revision_read()
    if _writers_under_way():
        revision -= 1
    # Row by row: of ten thousand, all at once would leave 50 MB of holes in a gateway's memory.
    with _one_snapshot():
        versions = _versions_by_model()
        rows = models.Model.objects.select_related("usage", "alias_of__usage").order_by("name")
        entries = {intern(row.name): _model(row, versions) for row in rows.iterator(chunk_size=_ROWS)}
    return catalogue.Catalogue(revision=revision, models=entries, default=_default(entries.values()))


def replicas_desired(node: str) -> list[catalogue.DesiredReplica]:
    """What the supervisor of ``node`` should do, for every version that it has a row of or should keep loaded.

    Preloaded models, and those whose warm hours last, run without a row, on the nodes where they live, and so do models
    that should run on a node that has left; a row that says ``stopped`` is stronger. What can't be served (disabled,
    its file gone or replaced) is to be stopped, whatever its row says.
    """
    rows = models.Replica.objects.filter(node__name=node).values_list("version_id", "desired")
    wanted: dict[int, str] = dict(rows)
    present = rooms_present(also=node)
    preloaded = Q(model__preload=True, pk=F("model__promoted"))
    homeless = models.Replica.objects.filter(desired=models.Replica.Desired.RUNNING, node__in=nodes_left())
    scheduled = models.WarmSchedule.objects.filter(open_since__isnull=False)
    warm = scheduled.values_list(Coalesce("version", "model__promoted"))
    kept = models.Version.objects.filter(
        preloaded | Q(pk__in=homeless.values("version")) | Q(pk__in=warm), model__enabled=True
    )
    for version in kept.select_related("model"):
        if wanted.get(version.pk) != models.Replica.Desired.STOPPED and node in homes_of(version, present):
            wanted[version.pk] = models.Replica.Desired.RUNNING
    here = models.Version.objects.exclude(source=models.Version.Source.REMOTE)
    versions = here.filter(pk__in=wanted).select_related("model").order_by("pk")
    return [
        catalogue.DesiredReplica(
            version=version_value(version), desired=_desired(wanted[version.pk]) if version.servable else "stopped"
        )
        for version in versions
    ]


def rooms_present(*, also: str = "") -> dict[str, int]:
    """The nodes that are here and take models, and their memory in MB; ``also`` counts as here."""
    return dict(nodes_present(also=also).values_list("name", "ram_budget_mb"))


def homes_of(version: models.Version, present: Mapping[str, int]) -> list[str]:
    """The nodes where a version is kept loaded, if it should be: as many as its model wants, of those that could hold
    its file, or of all if none could: then one of them will say so.

    Args:
        present: as :func:`rooms_present`.
    """
    roomy = [name for name, ram_mb in present.items() if ram_mb << 20 >= version.size_bytes]
    return homes(version.model.name, roomy or present, version.model.replicas)


def use_counts() -> dict[str, int]:
    """How often each model was asked for, by its id. Models that never were are left out."""
    return dict(models.Usage.objects.filter(use_count__gt=0).values_list("model__name", "use_count"))


def version_value(row: models.Version) -> catalogue.Version:
    """A row (with its ``model``) as the value that the planes share."""
    return catalogue.Version(
        pk=row.pk,
        model=intern(row.model.name),
        version=intern(row.number),
        path=shown_path(row.path),
        files=tuple(row.files),
        size_bytes=row.size_bytes,
        architecture=intern(row.architecture),
        parameter_count=row.parameter_count,
        quantization=intern(row.quantization),
        context_length=row.context_length,
        capabilities=_capabilities(tuple(row.capabilities), tuple(row.model.extra_capabilities)),
        health=catalogue.Health(row.health),
        health_reason=row.health_reason,
        health_checked_at=None if row.health_checked_at is None else row.health_checked_at.timestamp(),
        created=_seconds(row.created_at),
        parameters=dict(row.parameters) if row.parameters else _NO_PARAMETERS,
        replicas=row.model.replicas,
        remote=row.source == models.Version.Source.REMOTE,
    )


@lru_cache(maxsize=1024)
def _capabilities(own: tuple[str, ...], extra: tuple[str, ...]) -> frozenset[str]:
    """Of thousands of models most can do the same."""
    return frozenset((*own, *extra))


def shown_path(path: str) -> str:
    """Relative to the project's root if it lies below it, as in the user guide's examples."""
    root = Path(settings.BASE_DIR)
    return str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else path


def _writers_under_way() -> bool:
    """Whether a transaction has bumped the revision and not ended yet.

    Asked after the sequence was read and before the tables are: a writer that the sequence betrays has then either
    ended, and its rows are visible, or is seen here by the advisory lock that the trigger took before the bump.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND classid = (hashtext('nopenai')::bigint & 4294967295)::oid"
            " AND objid = (hashtext('revision')::bigint & 4294967295)::oid)"
        )
        (under_way,) = cursor.fetchone()
    return bool(under_way)


@contextmanager
def _one_snapshot() -> Iterator[None]:
    """All queries inside see one state of the tables (or what a transaction already under way sees)."""
    if connection.in_atomic_block:
        yield
        return
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def _default(entries: Collection[catalogue.Model]) -> catalogue.Model | None:
    """The chosen one, else the starter model standing in."""
    chosen = next((entry for entry in entries if entry.is_default), None)
    return chosen or next((entry for entry in entries if entry.starter and entry.alias_of is None), None)


def _versions_by_model() -> Mapping[int, dict[str, catalogue.Version]]:
    """Versions of each model's primary key, newest first."""
    versions: dict[int, dict[str, catalogue.Version]] = defaultdict(dict)
    rows = models.Version.objects.select_related("model").order_by("-major", "-minor", "-patch")
    for row in rows.iterator(chunk_size=_ROWS):
        versions[row.model_id][row.number] = version_value(row)
    return versions


def _model(row: models.Model, versions: Mapping[int, dict[str, catalogue.Version]]) -> catalogue.Model:
    """An alias shows what the model it stands for is and has."""
    target = row.alias_of or row
    own = versions.get(target.pk, {})
    return catalogue.Model(
        id=intern(row.name),
        display_name=intern(row.display_name or row.name),
        enabled=target.enabled,
        preload=target.preload,
        is_default=row.is_default,
        starter=target.starter,
        created=_seconds(row.created_at),
        use_count=target.usage.use_count if hasattr(target, "usage") else 0,
        versions=own,
        promoted=next((version for version in own.values() if version.pk == target.promoted_id), None),
        alias_of=row.alias_of.name if row.alias_of else None,
    )


def _desired(value: str) -> Literal["running", "on_demand", "stopped"]:
    match value:
        case "running" | "on_demand" | "stopped":
            return value
    raise ValueError(f"unknown desired state {value!r}")  # a constraint of the table excludes it


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
