"""Writes of the registry. Keyword-only, transactional, and only what really changes: an idle caller announces nothing.

Discovery and registration, which have files to look at first, live in :mod:`registry.scanning`,
:mod:`registry.registering` and :mod:`registry.hashing`; they are offered here too, so that callers know one module.
"""

import difflib
from collections.abc import Mapping

from django.db import connection, transaction
from django.utils import timezone

from registry import selectors
from registry.errors import InvalidRequest, ModelNotFound, NotFound
from registry.hashing import versions_hash
from registry.models import Model, Node, Replica, ReplicaVitals, Version
from registry.presentation import promotion
from registry.registering import model_register
from registry.scanning import ScanReport, models_scan

__all__ = [
    "ScanReport",
    "model_enable",
    "model_named",
    "model_register",
    "model_set_default",
    "models_scan",
    "node_heartbeat",
    "node_register",
    "replica_desire",
    "replica_observe",
    "replica_revive",
    "usage_add",
    "version_promote",
    "versions_hash",
]

_ALIVE = (Replica.Observed.LOADING, Replica.Observed.READY, Replica.Observed.DRAINING)


def model_named(*, name: str) -> Model:
    """The model that ``name`` means; an alias leads to the model itself.

    Raises:
        ModelNotFound: with the nearest ids.
    """
    # PostgreSQL refuses text with a NUL; a name with one is nobody's.
    named = Model.objects.select_related("alias_of", "promoted").filter(name=name.replace("\0", "\ufffd"))
    found = named.first()
    if found is None:
        raise ModelNotFound(f"There is no model '{name}'.{_nearest(name)}", param="model")
    return found.alias_of or found


def model_set_default(*, name: str) -> Model:
    """Make a model the one that answers requests which name none.

    Raises:
        ModelNotFound: as :func:`model_named`.
        InvalidRequest: when it can't answer: every request without a model would then fail.
    """
    with transaction.atomic():
        model = model_named(name=name)
        if why := _why_not(model):
            raise InvalidRequest(f"'{model.name}' can't be the default: {why}", param="model_id")
        _lock_default()
        Model.objects.filter(is_default=True).exclude(pk=model.pk).update(is_default=False)
        Model.objects.filter(pk=model.pk, is_default=False).update(is_default=True)
    model.refresh_from_db()
    return model


def model_enable(*, name: str, enabled: bool) -> Model:
    """Let a model answer requests, or not. Running requests are left to finish.

    Raises:
        ModelNotFound: as :func:`model_named`.
    """
    model = model_named(name=name)
    Model.objects.filter(pk=model.pk).exclude(enabled=enabled).update(enabled=enabled)
    model.refresh_from_db()
    return model


def version_promote(*, name: str, number: str) -> Version:
    """Make a version the one that the bare id means.

    Raises:
        ModelNotFound: as :func:`model_named`.
        NotFound: naming the versions there are.
        InvalidRequest: when its file can't be served.
    """
    with transaction.atomic():
        model = model_named(name=name)
        versions = {version.number: version for version in model.versions.all()}
        version = versions.get(number)
        if version is None:
            known = ", ".join(versions) or "none"
            raise NotFound(f"'{model.name}' has no version {number}; it has: {known}.", param="version")
        if version.file_state != Version.FileState.PRESENT:
            raise InvalidRequest(
                f"{version} can't be promoted: {version.health_reason or version.get_file_state_display()}.",
                param="version",
            )
        Model.objects.filter(pk=model.pk).exclude(promoted=version).update(promoted=version)
    return version


def usage_add(*, counts: Mapping[str, int]) -> None:
    """Add to the models' use counts; ids that no longer exist are passed over. One statement, never announced."""
    names = [name for name, count in counts.items() if count > 0]
    if not names:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO registry_usage (model_id, use_count)"
            " SELECT coalesce(m.alias_of_id, m.id), sum(added.count)"
            " FROM unnest(%s::text[], %s::bigint[]) AS added (name, count) JOIN registry_model m ON m.name = added.name"
            # In the order of the keys, so that two gateways flushing at once can't deadlock.
            " GROUP BY 1 ORDER BY 1"
            " ON CONFLICT (model_id) DO UPDATE SET use_count = registry_usage.use_count + EXCLUDED.use_count",
            [names, [counts[name] for name in names]],
        )


def node_register(*, name: str, ram_budget_mb: int, pid: int, disk_bytes: int | None = None, address: str = "") -> Node:
    """A supervisor has started on node ``name``: what the one before it had observed is over.

    Args:
        address: ``host:port`` of the node's door. Empty: it has none.
        disk_bytes: free on the disk of its data directory, its cached blocks counted as free. None: not known.
    """
    now = timezone.now()
    told = {"ram_budget_mb": ram_budget_mb, "disk_bytes": disk_bytes, "supervisor_pid": pid, "address": address}
    with transaction.atomic():
        node, _ = Node.objects.update_or_create(name=name, defaults={**told, "started_at": now, "last_seen_at": now})
        node.replicas.exclude(observed=Replica.Observed.COLD).update(
            observed=Replica.Observed.COLD, reason="the supervisor started", pid=None, restarts=0, observed_at=now
        )
        ReplicaVitals.objects.filter(replica__node=node).delete()
    return node


def node_heartbeat(*, name: str, disk_bytes: int | None = None) -> None:
    """The supervisor of ``name`` is alive, and how much its disk has for the cache (None: as before)."""
    told = {} if disk_bytes is None else {"disk_bytes": disk_bytes}
    Node.objects.filter(name=name).update(last_seen_at=timezone.now(), **told)


def replica_observe(
    *, node: str, version_pk: int, observed: str, reason: str = "", pid: int | None = None, restarts: int = 0
) -> None:
    """Record what a supervisor sees. The desired state is left as it is; an unknown node or version is passed over,
    since a record must not stop the recorder."""
    state = Replica.Observed(observed)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO registry_replica AS r"
            " (node_id, version_id, desired, observed, reason, pid, restarts, observed_at)"
            " SELECT n.id, v.id, 'on_demand', %s, %s, %s, %s, now()"
            " FROM registry_node n, registry_version v WHERE n.name = %s AND v.id = %s"
            " ON CONFLICT (node_id, version_id) DO UPDATE SET (observed, reason, pid, restarts, observed_at)"
            " = (EXCLUDED.observed, EXCLUDED.reason, EXCLUDED.pid, EXCLUDED.restarts, EXCLUDED.observed_at)",
            [state.value, reason, pid if state in _ALIVE else None, restarts, node, version_pk],
        )


def replica_desire(*, node: str | None, version_pk: int, desired: str) -> int:
    """Ask a node to keep a version running, to stop it, or to load it on demand. None: it is kept running on as many
    nodes as its model wants; for the rest, every node is asked.

    Returns:
        On how many nodes that changed something.

    Raises:
        NotFound: when there is no such node (or none at all), or no such version.
        InvalidRequest: when it should run and can't.
    """
    state = Replica.Desired(desired)
    with transaction.atomic():
        version = Version.objects.select_related("model").filter(pk=version_pk).first()
        if version is None:
            raise NotFound(f"There is no version with the key {version_pk}.", param="version")
        if version.source == Version.Source.REMOTE:
            raise InvalidRequest(f"{version} is answered elsewhere: there is nothing to load here.", param="version")
        if state == Replica.Desired.RUNNING and not version.servable:
            why = "its model is disabled" if not version.model.enabled else version.health_reason
            raise InvalidRequest(f"{version} can't be loaded: {why}.", param="version")
        nodes = list(Node.objects.order_by("pk") if node is None else Node.objects.filter(name=node))
        if not nodes:
            known = ", ".join(Node.objects.values_list("name", flat=True)) or "none: no supervisor has started yet"
            called = f" '{node}'" if node else ""
            raise NotFound(f"There is no node{called}; known nodes: {known}.", param="node")
        if node is None and state == Replica.Desired.RUNNING:
            home = selectors.homes_of(version, selectors.rooms_present())
            nodes = [each for each in nodes if each.name in home] or nodes[:1]
        return sum(_desire(node=each, version=version, state=state) for each in nodes)


def replica_revive(*, node: str, version_pk: int) -> bool:
    """Somebody asked for a version that an operator had stopped: it is on demand again, unless it is pinned by now.

    Returns:
        Whether it was stopped.
    """
    stopped = Replica.objects.filter(node__name=node, version_id=version_pk, desired=Replica.Desired.STOPPED)
    return stopped.update(desired=Replica.Desired.ON_DEMAND) > 0


def _desire(*, node: Node, version: Version, state: Replica.Desired) -> int:
    now = timezone.now()
    said = {"desired": state, "desired_at": now}
    replica, created = Replica.objects.get_or_create(node=node, version=version, defaults=said)
    if created:
        return 1
    own = Replica.objects.filter(pk=replica.pk)
    if changed := own.exclude(desired=state).update(**said):
        return changed
    if state == Replica.Desired.STOPPED:  # warm hours ask when it was said last
        own.update(desired_at=now)
    return 0


def _why_not(model: Model) -> str:
    """What keeps a model from answering under its bare id, and what to do about it; empty where nothing does."""
    if not model.enabled:
        return f"it is disabled. Enable it first: .venv/bin/python manage.py models enable {model.name}"
    version = model.promoted
    if version is not None and version.servable:
        return ""
    better = next((other for other in model.versions.order_by("-major", "-minor", "-patch") if other.servable), None)
    if better is not None:
        state = f"{version} can't be served ({version.health_reason})" if version else "no version of it is promoted"
        return f"{state}. Promote one first: {promotion(model.name, better.number)}"
    version = version or model.versions.first()
    reason = (version.health_reason or version.get_file_state_display()) if version else "it has no version"
    return f"it can't answer ({reason}). Put its file right first, or choose another model."


def _lock_default() -> None:
    """Two operators who set a default at once wait for each other, instead of one running into the constraint."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('nopenai'), hashtext('default'))")


def _nearest(name: str) -> str:
    names = list(Model.objects.values_list("name", flat=True))
    nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.3)
    if nearest:
        return f" Nearest: {', '.join(nearest)}."
    return "" if names else " No model is known yet: put a GGUF into the models directory."
