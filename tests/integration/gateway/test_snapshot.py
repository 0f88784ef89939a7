"""The snapshot's thread against a real PostgreSQL: what is written there is soon known here."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from django.db import connection

from inference.gateway.state import GatewayState
from tests.waiting import until

if TYPE_CHECKING:
    from inference.gateway.snapshot import SnapshotThread

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def state() -> GatewayState:
    return GatewayState()


@pytest_asyncio.fixture
async def thread(state: GatewayState, transactional_db: None) -> "AsyncIterator[SnapshotThread]":
    from inference.gateway.snapshot import SnapshotThread  # imports models, which need Django to be set up

    thread = SnapshotThread(state)
    thread.start()
    await until(lambda: state.snapshot is not None)
    yield thread
    await thread.stop()


async def in_sql(write: Callable[[], object]) -> None:
    def act() -> None:
        write()
        connection.close()

    await asyncio.to_thread(act)


def make_model(name: str) -> None:
    from registry.models import Model, Version

    model = Model.objects.create(name=name)
    version = Version.objects.create(model=model, major=1, minor=0, patch=0, path=f"/models/{name}")
    Model.objects.filter(pk=model.pk).update(promoted=version)


def known(state: GatewayState) -> list[str]:
    return list(state.current().catalogue.models)


async def test_a_new_model_is_known_without_a_poll(
    state: GatewayState, transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inference.gateway import snapshot  # imports models, which need Django to be set up

    monkeypatch.setattr(snapshot, "POLL_SECONDS", 600.0)
    thread = snapshot.SnapshotThread(state)
    thread.start()
    await until(lambda: state.snapshot is not None)
    await in_sql(lambda: make_model("one"))
    await until(lambda: known(state) == ["one"])
    await thread.stop()


async def test_a_reader_of_a_revision_waits_until_it_is_known(state: GatewayState, thread: "SnapshotThread") -> None:
    from registry.selectors import revision_read

    revisions: list[int] = []

    def write() -> None:
        make_model("one")
        revisions.append(revision_read())

    await in_sql(write)
    thread.wake()
    assert await state.reached(revisions[0], 5.0)
    assert known(state) == ["one"]
    assert not await state.reached(revisions[0] + 1000, 0.05)


async def test_keys_are_known_when_made_and_unknown_when_revoked(state: GatewayState, thread: "SnapshotThread") -> None:
    from quotas.access.services import key_create, key_revoke, tenant_create
    from quotas.callers import digest

    made: list[tuple[Any, str]] = []

    def make() -> None:
        tenant_create(name="ada")
        made.append(key_create(tenant="ada", name="", role="inference", expires_at=None))

    await in_sql(make)
    secret = made[0][1]
    await until(lambda: digest(secret) in state.current().callers)
    assert state.current().callers[digest(secret)].tenant == "ada"
    await in_sql(lambda: key_revoke(key_pk=made[0][0].pk))
    await until(lambda: digest(secret) not in state.current().callers)


async def test_use_counts_are_written_and_read_back(state: GatewayState, thread: "SnapshotThread") -> None:
    await in_sql(lambda: make_model("one"))
    await until(lambda: known(state) == ["one"])
    thread.add_use_counts({"one": 2, "gone": 1})
    thread.add_use_counts({"one": 3})
    thread.wake()
    await until(lambda: state.current().use_counts.get("one") == 5)


async def test_the_last_use_counts_are_written_when_it_stops(state: GatewayState, thread: "SnapshotThread") -> None:
    from registry.selectors import use_counts

    await in_sql(lambda: make_model("one"))
    thread.add_use_counts({"one": 7})
    await thread.stop()
    counts: list[dict[str, int]] = []
    await in_sql(lambda: counts.append(use_counts()))
    assert counts == [{"one": 7}]


async def test_a_broken_connection_is_made_anew(state: GatewayState, thread: "SnapshotThread") -> None:
    thread.hang_up()
    await until(lambda: bool(state.database.fault))
    await until(lambda: not state.database.fault)
    await in_sql(lambda: make_model("one"))
    await until(lambda: known(state) == ["one"])


async def test_a_terminated_session_is_made_anew(state: GatewayState, thread: "SnapshotThread") -> None:
    def terminate() -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    await in_sql(terminate)
    await until(lambda: bool(state.database.fault))
    await until(lambda: not state.database.fault)


async def test_many_changes_at_once_end_in_the_last_state(state: GatewayState, thread: "SnapshotThread") -> None:
    def write() -> None:
        for number in range(20):
            make_model(f"m{number:02}")

    await in_sql(write)
    await until(lambda: len(known(state)) == 20)
