"""Celery on real Redis and PostgreSQL: tasks run, one beat ticks."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from django.test import override_settings

from nopenai_site.beat import ASK_AGAIN_SECONDS, ElectedScheduler, Election
from nopenai_site.celery import BEAT_SCHEDULE, app, broker_url
from nopenai_site.environment import Environment
from tests.gguf_files import write_model


@pytest.fixture
def elections(database_url: str) -> Iterator[tuple[Election, Election]]:
    pair = Election(database_url), Election(database_url)
    yield pair
    for election in pair:
        election.resign()


def test_of_two_beats_one_is_elected_and_the_other_follows_when_it_is_gone(
    elections: tuple[Election, Election],
) -> None:
    first, second = elections
    assert [first.elected(), second.elected(), first.elected(), second.elected()] == [True, False, True, False]

    first.resign()

    assert second.elected()
    assert not first.elected()


def test_a_beat_whose_session_is_killed_stands_for_election_again(
    elections: tuple[Election, Election], database_url: str
) -> None:
    first, second = elections
    assert first.elected()
    _kill_beats(database_url)

    assert not first.elected()
    assert second.elected()
    assert not first.elected()


def test_a_beat_without_a_database_waits(tmp_path: Path) -> None:
    election = Election(f"postgresql://nobody@/none?host={tmp_path}")

    assert not election.elected()


def test_only_the_elected_scheduler_sends_tasks(
    elections: tuple[Election, Election], database_url: str, tmp_path: Path
) -> None:
    other, _ = elections
    assert other.elected()
    with override_settings(DATABASE_URL=database_url):
        scheduler = ElectedScheduler(app=app, schedule_filename=str(tmp_path / "schedule"))
    try:
        assert scheduler.tick() == ASK_AGAIN_SECONDS
        other.resign()

        wait = scheduler.tick()

        assert 0 <= wait <= ASK_AGAIN_SECONDS
        assert set(scheduler.schedule) == set(BEAT_SCHEDULE)
    finally:
        scheduler.close()


@pytest.mark.django_db
def test_a_task_sent_through_redis_scans_the_models(test_environment: Environment) -> None:
    from registry.models import Model
    from registry.tasks import scan

    folder = test_environment.models_dirs[0]
    path = write_model(folder / "From-A-Task" / "model.gguf")
    try:
        scan.apply_async()
        _work_off()
    finally:
        path.unlink()

    assert Model.objects.filter(name="From-A-Task").exists()


def test_every_scheduled_task_exists() -> None:
    import quotas.tasks  # noqa: F401
    import registry.tasks  # noqa: F401

    assert {entry["task"] for entry in BEAT_SCHEDULE.values()} <= set(app.tasks)


@pytest.mark.parametrize(
    ("redis", "kombu"),
    [
        ("redis://cache.internal:6379/2", "redis://cache.internal:6379/2"),
        ("unix:///run/redis.sock", "redis+socket:///run/redis.sock?virtual_host=0"),
        ("unix://:secret@/run/redis.sock?db=3", "redis+socket://:secret@/run/redis.sock?virtual_host=3"),
    ],
)
def test_the_brokers_url_is_spelled_for_kombu(redis: str, kombu: str) -> None:
    assert broker_url(redis) == kombu


def _kill_beats(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as session:
        session.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'nopenai beat'"
        )


def _work_off() -> None:
    """Take each message that is in the queue and run its task here, as a worker of one process does."""
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue(app.conf.task_default_queue)
        for _ in range(len(queue)):
            message = queue.get(timeout=5)
            app.tasks[message.headers["task"]].apply(*message.payload[:1], message.payload[1])
            message.ack()
        queue.close()
