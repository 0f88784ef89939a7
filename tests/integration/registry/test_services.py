"""Nodes, replicas, promotion, defaults and counts."""

import threading
from pathlib import Path

import psycopg
import pytest
from django.db import connections

from registry import locks
from registry.errors import InvalidRequest, ModelNotFound, NotFound
from registry.models import Model, Node, Replica, Version
from registry.selectors import catalogue_load, replicas_desired, use_counts
from registry.services import (
    model_enable,
    model_named,
    model_set_default,
    models_scan,
    node_heartbeat,
    node_register,
    replica_desire,
    replica_observe,
    usage_add,
    version_promote,
)
from tests.gguf_files import write_model
from tests.integration.registry.reading import Scan, version_of


@pytest.fixture
def node(db: None) -> Node:
    return node_register(name="here", ram_budget_mb=1000, pid=1)


@pytest.fixture
def tiny(scan: Scan, models_dir: Path) -> Version:
    write_model(models_dir / "tiny.gguf")
    scan()
    return version_of("tiny")


def wanted(node: Node) -> dict[str, str]:
    return {f"{one.version.model}@{one.version.version}": one.desired for one in replicas_desired(node.name)}


def test_a_preloaded_model_is_to_run_without_a_row(node: Node, tiny: Version) -> None:
    assert wanted(node) == {}

    Model.objects.update(preload=True)

    assert wanted(node) == {"tiny@1.0.0": "running"}


def test_an_operator_who_stops_a_preloaded_model_is_heeded(node: Node, tiny: Version) -> None:
    Model.objects.update(preload=True)

    replica_desire(node="here", version_pk=tiny.pk, desired="stopped")

    assert wanted(node) == {"tiny@1.0.0": "stopped"}


def test_what_can_not_be_served_is_to_be_stopped(node: Node, tiny: Version) -> None:
    replica_desire(node="here", version_pk=tiny.pk, desired="running")
    assert wanted(node) == {"tiny@1.0.0": "running"}

    model_enable(name="tiny", enabled=False)

    assert wanted(node) == {"tiny@1.0.0": "stopped"}


def test_a_file_that_vanished_is_to_be_stopped(node: Node, tiny: Version, scan: Scan, models_dir: Path) -> None:
    replica_desire(node="here", version_pk=tiny.pk, desired="running")
    (models_dir / "tiny.gguf").unlink()

    scan()

    assert wanted(node) == {"tiny@1.0.0": "stopped"}


def test_without_a_node_a_model_is_kept_loaded_on_as_many_as_it_wants(node: Node, tiny: Version) -> None:
    other = node_register(name="there", ram_budget_mb=1000, pid=2)

    assert replica_desire(node=None, version_pk=tiny.pk, desired="running") == 1
    assert sorted(map(str, (*wanted(node).values(), *wanted(other).values()))) == ["running"]

    Model.objects.update(replicas=2)
    assert replica_desire(node=None, version_pk=tiny.pk, desired="running") == 1
    assert replica_desire(node="there", version_pk=tiny.pk, desired="running") == 0
    assert wanted(node) == wanted(other) == {"tiny@1.0.0": "running"}


def test_without_a_node_a_model_is_stopped_everywhere(node: Node, tiny: Version) -> None:
    other = node_register(name="there", ram_budget_mb=1000, pid=2)

    assert replica_desire(node=None, version_pk=tiny.pk, desired="stopped") == 2
    assert wanted(node) == wanted(other) == {"tiny@1.0.0": "stopped"}


def test_a_disabled_model_can_not_be_asked_to_run(node: Node, tiny: Version) -> None:
    model_enable(name="tiny", enabled=False)

    with pytest.raises(InvalidRequest, match="its model is disabled"):
        replica_desire(node="here", version_pk=tiny.pk, desired="running")


def test_an_unknown_node_is_answered_with_the_known_ones(node: Node, tiny: Version) -> None:
    with pytest.raises(NotFound, match="known nodes: here"):
        replica_desire(node="nowhere", version_pk=tiny.pk, desired="running")


def test_observing_leaves_what_is_desired(node: Node, tiny: Version) -> None:
    replica_desire(node="here", version_pk=tiny.pk, desired="running")

    replica_observe(node="here", version_pk=tiny.pk, observed="ready", pid=7, restarts=1)

    replica = Replica.objects.get()
    assert (replica.desired, replica.observed, replica.pid, replica.restarts) == ("running", "ready", 7, 1)


def test_a_replica_that_is_not_alive_has_no_pid(node: Node, tiny: Version) -> None:
    replica_observe(node="here", version_pk=tiny.pk, observed="failed", reason="killed by signal 9", pid=7)

    replica = Replica.objects.get()
    assert (replica.observed, replica.reason, replica.pid, replica.desired) == (
        "failed",
        "killed by signal 9",
        None,
        "on_demand",
    )


def test_observing_what_does_not_exist_is_passed_over(node: Node) -> None:
    replica_observe(node="here", version_pk=-1, observed="ready", pid=7)
    replica_observe(node="nowhere", version_pk=-1, observed="ready", pid=7)

    assert not Replica.objects.exists()


def test_a_supervisor_that_starts_forgets_what_the_last_one_saw(node: Node, tiny: Version) -> None:
    replica_desire(node="here", version_pk=tiny.pk, desired="running")
    replica_observe(node="here", version_pk=tiny.pk, observed="ready", pid=7)

    node_register(name="here", ram_budget_mb=2000, pid=2)

    replica = Replica.objects.get()
    assert (replica.desired, replica.observed, replica.pid) == ("running", "cold", None)
    assert Node.objects.get().ram_budget_mb == 2000


def test_a_heartbeat_is_seen(node: Node) -> None:
    before = Node.objects.get().last_seen_at

    node_heartbeat(name="here")

    after = Node.objects.get().last_seen_at
    assert before is not None
    assert after is not None
    assert after > before


def test_promotion_makes_the_bare_id_mean_another_version(tiny: Version, scan: Scan, models_dir: Path) -> None:
    write_model(models_dir / "tiny.gguf", context_length=1024)
    scan()

    version_promote(name="tiny", number="1.0.1")

    promoted = catalogue_load().models["tiny"].promoted
    assert promoted is not None
    assert (promoted.version, promoted.context_length) == ("1.0.1", 1024)


def test_what_can_not_be_promoted_is_refused_with_the_reason(tiny: Version, scan: Scan, models_dir: Path) -> None:
    (models_dir / "tiny.gguf").unlink()
    scan()

    with pytest.raises(InvalidRequest, match="vanished"):
        version_promote(name="tiny", number="1.0.0")
    with pytest.raises(NotFound, match=r"it has: 1\.0\.0"):
        version_promote(name="tiny", number="9.9.9")


def test_one_model_is_the_default(tiny: Version, scan: Scan, models_dir: Path) -> None:
    write_model(models_dir / "other.gguf")
    scan()

    model_set_default(name="other")

    assert [model.name for model in Model.objects.filter(is_default=True)] == ["other"]


def test_a_disabled_model_can_not_become_the_default(tiny: Version) -> None:
    model_enable(name="tiny", enabled=False)

    with pytest.raises(InvalidRequest, match="Enable it"):
        model_set_default(name="tiny")


def test_an_unknown_model_is_answered_with_the_nearest(tiny: Version) -> None:
    with pytest.raises(ModelNotFound, match="Nearest: tiny"):
        model_named(name="tinny")
    with pytest.raises(ModelNotFound):
        model_named(name="ti\0ny")


def test_uses_add_up_and_unknown_models_are_passed_over(tiny: Version) -> None:
    usage_add(counts={"tiny": 2, "gone": 5})
    usage_add(counts={"tiny": 3, "zero": 0})
    usage_add(counts={})

    assert use_counts() == {"tiny": 5}
    assert catalogue_load().models["tiny"].use_count == 5


@pytest.mark.django_db(transaction=True)
def test_a_scan_waits_for_the_one_under_way(models_dir: Path, database_url: str) -> None:
    """Held here by another session, as by the scan of another process."""
    write_model(models_dir / "tiny.gguf")
    scanned = threading.Event()

    def scan() -> None:
        try:
            models_scan(models_dirs=(models_dir,), starter_model=False)
            scanned.set()
        finally:
            connections.close_all()

    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(hashtext('nopenai'), hashtext(%s))", [locks.SCAN])
        thread = threading.Thread(target=scan)
        thread.start()
        _until_someone_waits(other)
        assert not scanned.is_set()
        assert not Model.objects.exists()
    thread.join(timeout=10)

    assert scanned.is_set()
    assert Model.objects.get().name == "tiny"


@pytest.mark.django_db(transaction=True)
def test_a_lock_that_is_taken_can_be_passed_by(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(hashtext('nopenai'), hashtext(%s))", [locks.HASH])
        with locks.lock_tried(locks.HASH) as mine:
            assert not mine
        other.execute("SELECT pg_advisory_unlock(hashtext('nopenai'), hashtext(%s))", [locks.HASH])
    with locks.lock_tried(locks.HASH) as mine:
        assert mine


def _until_someone_waits(session: psycopg.Connection[tuple[object, ...]]) -> None:
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    for _ in range(100_000):
        row = session.execute(waiting).fetchone()
        if row and row[0]:
            return
    raise AssertionError("nobody waits for the lock")
