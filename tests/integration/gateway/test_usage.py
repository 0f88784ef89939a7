"""Usage on its way from the event loop to a real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import pytest_asyncio
from django.db import connection
from psycopg.conninfo import conninfo_to_dict

from quotas.usage.counts import UsageCounts, UsageKey
from tests.own_postgres import OwnPostgres
from tests.waiting import until_answer

if TYPE_CHECKING:
    from inference.gateway.usage_thread import UsageThread

NOON = 1_800_014_400


@pytest.fixture
def thread() -> "UsageThread":
    from inference.gateway.usage_thread import UsageThread  # imports models, which need Django to be set up

    return UsageThread()


@pytest_asyncio.fixture
async def own(tmp_path: Path, db: None, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OwnPostgres]:
    """A PostgreSQL that may be stopped; every connection made from here on leads there."""
    postgres = OwnPostgres(tmp_path / "pg")
    postgres.start()
    await postgres.migrate()
    there = conninfo_to_dict(postgres.url)
    for name, part in {"NAME": "dbname", "HOST": "host", "USER": "user", "PORT": "port"}.items():
        monkeypatch.setitem(connection.settings_dict, name, there.get(part, ""))
    yield postgres
    postgres.stop()


def counts(requests: int = 1, *, model: str = "tiny") -> dict[UsageKey, UsageCounts]:
    return {UsageKey(hour=NOON, key_pk=1, tenant="ada", model=model): UsageCounts(requests=requests)}


def recorded() -> dict[str, int]:
    """Requests by model."""
    from quotas.models import Usage

    try:
        return dict(Usage.objects.values_list("model", "requests"))
    finally:
        connection.close()


def in_sql(read: Callable[[], dict[str, int]]) -> Callable[[], Awaitable[dict[str, int]]]:
    return lambda: asyncio.to_thread(read)


@pytest.mark.django_db(transaction=True)
async def test_what_is_handed_over_is_written_at_once(thread: "UsageThread") -> None:
    thread.start()
    thread.write(counts(2))
    await until_answer(in_sql(recorded), lambda found: found == {"tiny": 2})
    await thread.stop()


@pytest.mark.django_db(transaction=True)
async def test_after_a_clean_stop_everything_is_written(thread: "UsageThread") -> None:
    thread.start()
    for number in range(100):
        thread.write(counts(model=f"m{number % 7}"))
    await thread.stop()
    assert sum((await in_sql(recorded)()).values()) == 100


@pytest.mark.django_db(transaction=True)
async def test_two_gateways_at_once_add_up(thread: "UsageThread") -> None:
    other = type(thread)()
    for each in (thread, other):
        each.start()
    for number in range(50):
        for each in (thread, other):
            each.write(counts(model="a") | counts(model="b") if number % 2 else counts(model="b") | counts(model="a"))
    await asyncio.gather(thread.stop(), other.stop())
    assert await in_sql(recorded)() == {"a": 100, "b": 100}


@pytest.mark.django_db(transaction=True)
async def test_a_batch_that_can_never_be_written_keeps_no_other(thread: "UsageThread") -> None:
    thread.start()
    thread.write(counts(-1))
    thread.write(counts(1))
    await thread.stop()
    assert await in_sql(recorded)() == {"tiny": 1}


@pytest.mark.django_db(transaction=True)
async def test_a_batch_whose_answer_was_lost_is_not_written_twice(
    thread: "UsageThread", monkeypatch: pytest.MonkeyPatch
) -> None:
    from inference.gateway import usage_thread
    from quotas.usage.services import usage_record

    sent: list[int] = []

    def record(*, gateway: str, batch: int, counts: dict[UsageKey, UsageCounts]) -> None:
        """The real one; then, for the first time, the connection is lost before its answer arrives."""
        usage_record(gateway=gateway, batch=batch, counts=counts)
        sent.append(batch)
        if len(sent) == 1:
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(usage_thread, "usage_record", record)
    thread.start()
    thread.write(counts(3))
    thread.write(counts(4))
    await thread.stop()
    assert sent == [1, 1, 2]
    assert await in_sql(recorded)() == {"tiny": 7}


async def test_while_postgresql_is_away_counts_pile_up_and_are_written_when_it_is_back(
    own: OwnPostgres, thread: "UsageThread"
) -> None:
    thread.start()
    thread.write(counts(1))
    await until_answer(in_sql(recorded), lambda found: found == {"tiny": 1})
    own.stop()
    for _ in range(10):
        thread.write(counts(1) | counts(1, model="other"))
    own.start()
    await until_answer(in_sql(recorded), lambda found: found == {"tiny": 11, "other": 10})
    await thread.stop()


async def test_a_stop_while_postgresql_is_away_ends(own: OwnPostgres, thread: "UsageThread") -> None:
    thread.start()
    own.stop()
    thread.write(counts(1))
    await thread.stop()
    own.start()
    assert await in_sql(recorded)() == {}


async def test_a_stop_waits_for_no_server_that_hangs(own: OwnPostgres, thread: "UsageThread") -> None:
    thread.start()
    thread.write(counts(1))
    await until_answer(in_sql(recorded), lambda found: found == {"tiny": 1})
    with own.frozen():
        thread.write(counts(1))
        async with asyncio.timeout(10):
            await thread.stop()
