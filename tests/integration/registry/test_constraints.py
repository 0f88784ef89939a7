"""Invariants that the tables keep by themselves, whoever writes."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from registry.models import Model, Node, Replica, Version

pytestmark = pytest.mark.django_db


@pytest.fixture
def model() -> Model:
    return Model.objects.create(name="org/tiny:Q4_K_M")


@pytest.fixture
def version(model: Model) -> Version:
    return make_version(model, header_digest="a" * 64, size_bytes=10, architecture="llama", context_length=512)


def make_version(model: Model, **columns: Any) -> Version:
    return Version.objects.create(**{"model": model, "major": 1, "minor": 0, "patch": 0, "path": "/x", **columns})


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("header_digest", "b" * 64),
        ("header_digest", ""),
        ("size_bytes", 11),
        ("architecture", "bert"),
        ("quantization", "Q8_0"),
        ("context_length", None),
        ("parameter_count", 5),
    ],
)
def test_content_of_a_version_can_not_change(version: Version, column: str, value: object) -> None:
    with pytest.raises(IntegrityError, match=r"version 1\.0\.0 of org/tiny:Q4_K_M is immutable"), transaction.atomic():
        Version.objects.filter(pk=version.pk).update(**{column: value})


def test_sha256_can_be_set_once(version: Version) -> None:
    Version.objects.filter(pk=version.pk).update(sha256="c" * 64)

    with pytest.raises(IntegrityError, match="is immutable"), transaction.atomic():
        Version.objects.filter(pk=version.pk).update(sha256="d" * 64)


def test_what_is_not_content_can_change(version: Version) -> None:
    changed = Version.objects.filter(pk=version.pk).update(path="/y", capabilities=["chat"], patch=1, modified_ns=5)

    assert changed == 1


def test_a_version_without_content_may_still_get_it(model: Model) -> None:
    version = make_version(model, size_bytes=3)

    assert Version.objects.filter(pk=version.pk).update(size_bytes=10, header_digest="a" * 64) == 1


def test_a_version_of_another_model_can_not_be_promoted(version: Version) -> None:
    other = Model.objects.create(name="other")

    with pytest.raises(IntegrityError, match="promoted_is_own"), transaction.atomic():
        Model.objects.filter(pk=other.pk).update(promoted=version)
        _check_now()


def test_a_model_can_be_deleted_with_its_promoted_version(model: Model, version: Version) -> None:
    Model.objects.filter(pk=model.pk).update(promoted=version)

    model.delete()
    _check_now()

    assert not Version.objects.exists()


@pytest.mark.parametrize(
    ("constraint", "write"),
    [
        ("one_default", lambda: [Model.objects.create(name=n, is_default=True) for n in "ab"]),
        ("one_starter", lambda: [Model.objects.create(name=n, starter=True) for n in "ab"]),
        ("name", lambda: [Model.objects.create(name="a") for _ in range(2)]),
        ("name_form", lambda: Model.objects.create(name="a b")),
        ("name_form", lambda: Model.objects.create(name="a@1")),
        ("name_form", lambda: Model.objects.create(name="a\n")),
        ("name_form", lambda: Model.objects.create(name="/a")),
        ("name_form", lambda: Model.objects.create(name="")),
        ("alias_bare", lambda: Model.objects.create(name="a", alias_of=Model.objects.create(name="b"), preload=True)),
        ("model_lists", lambda: Model.objects.create(name="a", extra_capabilities={"a": 1})),
        ("version_once", lambda: [make_version(Model.objects.get_or_create(name="a")[0]) for _ in range(2)]),
        ("major", lambda: make_version(Model.objects.create(name="a"), major=-1)),
        ("version_size", lambda: make_version(Model.objects.create(name="a"), size_bytes=-1)),
        ("digest_form", lambda: make_version(Model.objects.create(name="a"), sha256="A" * 64)),
        ("digest_form", lambda: make_version(Model.objects.create(name="a"), header_digest="a")),
        ("version_lists", lambda: make_version(Model.objects.create(name="a"), files="/x")),
        ("file_state_known", lambda: make_version(Model.objects.create(name="a"), file_state="x", health="unhealthy")),
        ("health_known", lambda: make_version(Model.objects.create(name="a"), health="well")),
        ("no_file_no_health", lambda: make_version(Model.objects.create(name="a"), file_state="missing")),
        ("replica_once", lambda: [_replica() for _ in range(2)]),
        ("desired_known", lambda: _replica(desired="maybe")),
        ("observed_known", lambda: _replica(observed="lost")),
        ("pid_only_while_alive", lambda: _replica(observed="cold", pid=1)),
    ],
)
def test_the_tables_refuse(constraint: str, write: Callable[[], object]) -> None:
    with pytest.raises(IntegrityError, match=constraint), transaction.atomic():
        write()
        _check_now()


def _replica(**columns: Any) -> Replica:
    node, _ = Node.objects.get_or_create(name="n")
    model, _ = Model.objects.get_or_create(name="m")
    version = model.versions.first() or make_version(model)
    return Replica.objects.create(node=node, version=version, **columns)


def _check_now() -> None:
    """Deferred constraints are checked at the commit, which a test never reaches."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET CONSTRAINTS ALL DEFERRED")
