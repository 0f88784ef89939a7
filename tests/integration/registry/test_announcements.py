"""Who listens hears of every change that concerns it, and of nothing else."""

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from quotas.models import ApiKey, Tenant
from registry.models import Model, Node, Replica, Version
from registry.selectors import catalogue_load, revision_read
from registry.services import (
    model_enable,
    models_scan,
    node_heartbeat,
    node_register,
    replica_desire,
    replica_observe,
    usage_add,
)
from tests.gguf_files import write_model

pytestmark = pytest.mark.django_db(transaction=True)

Heard = Callable[[], list[str]]


@pytest.fixture
def version() -> Version:
    model = Model.objects.create(name="tiny")
    return Version.objects.create(
        model=model, major=1, minor=0, patch=0, path="/x", files=["/x"], header_digest="a" * 64, health="healthy"
    )


def test_every_change_of_the_catalogue_is_announced_once_and_moves_the_revision(version: Version, heard: Heard) -> None:
    heard()
    before = revision_read()

    model_enable(name="tiny", enabled=False)

    assert heard() == ["catalogue"]
    assert revision_read() > before
    before = revision_read()

    version.delete()

    assert heard() == ["catalogue"]
    assert revision_read() > before


def test_a_write_that_changes_nothing_is_not_announced(version: Version, heard: Heard) -> None:
    heard()
    before = revision_read()

    Model.objects.update(enabled=True)
    version.save()
    model_enable(name="tiny", enabled=True)
    Version.objects.update(modified_ns=7, sha256="b" * 64, hashed_modified_ns=7)
    Version.objects.filter(pk=-1).update(health="unknown")
    usage_add(counts={"tiny": 3})

    assert heard() == []
    assert revision_read() == before


def test_supervisors_hear_of_what_is_wanted_but_not_of_what_is_observed(version: Version, heard: Heard) -> None:
    node_register(name="here", ram_budget_mb=1, pid=1)
    heard()
    before = revision_read()

    replica_desire(node="here", version_pk=version.pk, desired="running")
    assert heard() == ["desired"]

    replica_observe(node="here", version_pk=version.pk, observed="ready", pid=7)
    node_heartbeat(name="here")
    replica_desire(node="here", version_pk=version.pk, desired="running")
    assert heard() == []

    Replica.objects.all().delete()
    assert heard() == ["desired"]
    assert revision_read() == before
    assert Node.objects.count() == 1


def test_keys_are_announced_as_keys(heard: Heard) -> None:
    before = revision_read()

    tenant = Tenant.objects.create(name="t")
    ApiKey.objects.create(tenant=tenant, prefix="nok_", digest="a" * 64)

    assert heard() == ["keys", "keys"]
    assert revision_read() > before


def test_a_scan_is_one_announcement_and_an_idle_scan_none(heard: Heard, tmp_path: Path) -> None:
    write_model(tmp_path / "a.gguf")
    write_model(tmp_path / "b.gguf")

    models_scan(models_dirs=(tmp_path,), starter_model=False)
    assert heard() == ["catalogue"]

    models_scan(models_dirs=(tmp_path,), starter_model=False)
    assert heard() == []


def test_a_catalogue_read_beside_an_open_transaction_will_be_read_again(version: Version, database_url: str) -> None:
    """The sequence moves before its transaction commits: a label equal to it would hide the change for ever."""
    with psycopg.connect(database_url) as other:
        other.execute("UPDATE registry_model SET enabled = false")

        beside = catalogue_load()

        assert beside.models["tiny"].enabled
        assert beside.revision != revision_read()
    assert catalogue_load().revision == revision_read()
    assert not catalogue_load().models["tiny"].enabled
