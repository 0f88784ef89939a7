"""One beat in the whole installation, however many are started: the one that holds an advisory lock ticks.

The lock belongs to a database session, so it is free again the moment its holder dies; the others ask for it every few
seconds. While PostgreSQL is away nothing ticks: there is nothing that tasks could do without it.
"""

from contextlib import suppress
from typing import Any

import psycopg
import structlog
from celery.beat import PersistentScheduler
from django.conf import settings

log = structlog.get_logger(module="beat")

ASK_AGAIN_SECONDS = 5.0


class Election:
    """A session of its own that holds the lock or tries to get it."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._session: psycopg.Connection[tuple[bool]] | None = None
        self._holds = False
        self._told = ""

    def elected(self) -> bool:
        """Whether the lock is held now. Asks the database, and connects to it anew where that is needed."""
        try:
            self._holds = self._ask()
        except psycopg.Error as fault:
            self.resign()
            self._tell("PostgreSQL is away: no task is scheduled until it is back", reason=str(fault).strip())
            return False
        self._tell("This beat schedules the tasks" if self._holds else "Another beat schedules the tasks")
        return self._holds

    def resign(self) -> None:
        """Let another be elected, from when this returns on: a closed session keeps its locks for a little while."""
        if self._session is not None:
            with suppress(psycopg.Error):
                self._session.execute("SELECT pg_advisory_unlock_all()")
            self._session.close()
        self._session = None
        self._holds = False

    def _ask(self) -> bool:
        if self._session is None:
            self._session = psycopg.connect(
                self._database_url,
                autocommit=True,
                connect_timeout=5,
                application_name="nopenai beat",
                tcp_user_timeout=10_000,
            )
        # A session that answers has kept its lock.
        query = "SELECT true" if self._holds else "SELECT pg_try_advisory_lock(hashtext('nopenai'), hashtext('beat'))"
        row = self._session.execute(query).fetchone()
        return bool(row and row[0])

    def _tell(self, message: str, **fields: str) -> None:
        """Once for each turn of events, not with every question."""
        if message != self._told:
            log.info(message, **fields)
        self._told = message


class ElectedScheduler(PersistentScheduler):  # type: ignore[misc]  # Celery is untyped
    """Celery's scheduler, ticking only while it is elected."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._election = Election(settings.DATABASE_URL)
        super().__init__(*args, **kwargs)

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Seconds until the next tick."""
        if not self._election.elected():
            # What is due at the take-over is worked out then, from the schedule and not from an old heap.
            self._heap = None
            return ASK_AGAIN_SECONDS
        seconds: float = super().tick(*args, **kwargs)
        return seconds

    def close(self) -> None:
        self._election.resign()
        super().close()
