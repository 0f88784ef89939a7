"""Usage, from requests to SQL: counted by the event loop, written by a thread every second.

Exact after a clean stop; a kill loses what has not been written yet, at most the last second. While PostgreSQL is away
the counts pile up, merged, and are written when it is back; a batch whose answer was lost is told apart by its number.
"""

import asyncio
import contextlib
import queue
import secrets
import threading

import psycopg
import structlog
from django.db import DatabaseError, DataError, IntegrityError, InterfaceError, connection

from inference.gateway.usage import Counts, merge
from quotas.usage.services import usage_record
from registry.errors import first_line

log = structlog.get_logger(module="quotas")

_STOP_SECONDS = 3.0
_RETRY_SECONDS = 1.0


class UsageThread:
    """Writes what it is given. Runs from :meth:`start` to :meth:`stop`; both, and :meth:`write`, are called by the
    event loop, which never waits here."""

    def __init__(self) -> None:
        self._gateway = secrets.token_hex(16)
        self._tasks: queue.SimpleQueue[Counts | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)
        self._batch = 1
        self._sending: Counts = {}
        """The batch that SQL may have, or not: it must not change any more."""
        self._pending: Counts = {}
        self._failing = False

    def start(self) -> None:
        self._thread.start()

    def write(self, counts: Counts) -> None:
        """They are the thread's from here on."""
        if counts:
            self._tasks.put(counts)

    async def stop(self) -> None:
        """Write what is left. A server that hangs is not waited for."""
        self._tasks.put(None)
        await asyncio.to_thread(self._thread.join, _STOP_SECONDS)
        if self._thread.is_alive():
            log.error("The last usage is lost: PostgreSQL does not answer")

    # From here on: in the thread.

    def _run(self) -> None:
        while (counts := self._next()) is not None:
            merge(self._pending, counts)
            self._send()
        self._send()
        if self._sending or self._pending:
            log.error("The last usage is lost: PostgreSQL can't be reached", rows=len(self._sending | self._pending))
        connection.close()

    def _next(self) -> Counts | None:
        """What to write, perhaps nothing new; None: it is the end."""
        timeout = _RETRY_SECONDS if self._sending or self._pending else None
        with contextlib.suppress(queue.Empty):
            return self._tasks.get(timeout=timeout)
        return {}

    def _send(self) -> None:
        """All that is pending, if PostgreSQL takes it; a batch that it may have is sent again first, as it was."""
        while self._sending or self._pending:
            if not self._sending:
                self._sending, self._pending = self._pending, {}
            if not self._written():
                return
            self._batch += 1
            self._sending = {}

    def _written(self) -> bool:
        """Whether the batch is done with; False: it is to be sent again."""
        try:
            usage_record(gateway=self._gateway, batch=self._batch, counts=self._sending)
        except (DataError, IntegrityError) as fault:
            # Ours, and for good: what can't be written must not keep what can.
            log.error("Usage is lost that can't be written", reason=first_line(fault), rows=len(self._sending))
        except (DatabaseError, InterfaceError, psycopg.Error) as fault:
            self._tell_fault(fault)
            return False
        except Exception:
            log.exception("Usage is lost that can't be written", rows=len(self._sending))
            connection.close()
        self._failing = False
        return True

    def _tell_fault(self, fault: Exception) -> None:
        if not self._failing:
            log.warning("Usage can't be written: it is kept until PostgreSQL is back", reason=first_line(fault))
        self._failing = True
        connection.close()
