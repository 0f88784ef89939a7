"""Keeps the gateway's snapshot fresh from PostgreSQL, in a thread of its own.

One connection, the ORM's, does everything: LISTEN comes before the first SELECT, so nothing falls between them; the
revision is polled behind it, and everything is read again every 30 s, so a lost notification costs seconds, never
correctness. The event loop gets each snapshot as one immutable value.

Nothing here stops when PostgreSQL does: the thread tries again until it is back, and the gateway serves what it knows.
"""

import asyncio
import contextlib
import os
import queue
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import psycopg
import structlog
from django.db import DatabaseError, InterfaceError, connection

from inference.gateway.origin import CacheRights
from inference.gateway.state import DatabaseContact, GatewayState, Snapshot, accounts_of, permits_of
from quotas.access.selectors import callers_load, default_partition_load, shared_partition_load
from quotas.access.services import DEFAULT_TENANT
from quotas.selectors import emergency_load, limits_load
from registry.backends.selectors import backends_load
from registry.cache.selectors import shared_prompts_load
from registry.errors import first_line
from registry.health.selectors import health_load
from registry.nodes.selectors import nodes_load
from registry.selectors import catalogue_load, revision_read, use_counts
from registry.services import usage_add
from routing.selectors import routing_load

log = structlog.get_logger(module="gateway")

POLL_SECONDS = 2.0
RELOAD_SECONDS = 30.0
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0
_STOP_SECONDS = 3.0

T = TypeVar("T")


class SnapshotThread:
    """Runs from :meth:`start` to :meth:`stop`; both, and all other methods, are called by the event loop."""

    def __init__(self, state: GatewayState) -> None:
        self._state = state
        self._thread = threading.Thread(target=self._run, name="snapshot", daemon=True)
        self._stopping = False
        self._usage: queue.SimpleQueue[dict[str, int]] = queue.SimpleQueue()
        self._pending_usage: Counter[str] = Counter()
        self._wake_receive, self._wake_send = os.pipe()
        os.set_blocking(self._wake_send, False)
        self._lifeline: socket.socket | None = None
        self._revision = -1
        self._loaded_at = 0.0

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Write the last use counts and end. A server that hangs is not waited for."""
        self._stopping = True
        self.wake()
        await asyncio.to_thread(self._thread.join, _STOP_SECONDS)
        if self._thread.is_alive():
            self.hang_up()

    def wake(self) -> None:
        """Look for news now."""
        with contextlib.suppress(BlockingIOError):  # it has been told often enough
            os.write(self._wake_send, b"!")

    def add_use_counts(self, counts: dict[str, int]) -> None:
        """Use counts to write with the next poll."""
        self._usage.put(counts)

    def hang_up(self) -> None:
        """Break the connection under a thread that waits for a silent server: its query then fails.

        Through a descriptor of our own (a dup), so that it can't meet one that was closed and given to something else.
        """
        if self._lifeline is not None:
            with contextlib.suppress(OSError):  # it is gone already
                self._lifeline.shutdown(socket.SHUT_RDWR)

    # From here on: in the thread.

    def _run(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while not self._stopping:
            try:
                self._connect()
                pause = _FIRST_PAUSE_SECONDS
                while not self._stopping:
                    self._round()
            except (DatabaseError, InterfaceError, psycopg.Error, OSError) as fault:
                self._tell_fault(fault)
            except Exception as fault:  # a bug must not leave the gateway with an old snapshot for ever
                log.exception("The snapshot could not be read")
                self._tell_fault(fault)
            self._disconnect()
            if not self._stopping:
                self._wait(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        self._write_last_usage()

    def _connect(self) -> None:
        connection.ensure_connection()
        self._lifeline = socket.socket(fileno=os.dup(self._postgres.fileno()))
        with connection.cursor() as cursor:
            cursor.execute("LISTEN nopenai")
        self._tell(self._state.accept_health, health_load())
        self._load()
        self._tell(self._state.accept_contact, DatabaseContact(last=time.time()))

    def _round(self) -> None:
        """Wait for news, at most :data:`POLL_SECONDS`, and act on it."""
        news = self._news() or (self._wait(POLL_SECONDS, self._postgres.fileno()) and self._news())
        self._write_usage()
        self._tell(self._state.accept_health, health_load())
        revision = revision_read()
        if news or revision != self._revision or time.monotonic() - self._loaded_at > RELOAD_SECONDS:
            self._load()
        else:
            self._tell(self._state.accept_use_counts, use_counts())
        self._tell(self._state.accept_contact, DatabaseContact(last=time.time()))

    def _load(self) -> None:
        self._loaded_at = time.monotonic()
        catalogue = catalogue_load()
        limits, callers = limits_load(), callers_load()
        snapshot = Snapshot(
            catalogue=catalogue,
            callers=callers,
            cache_rights=_cache_rights(),
            limits=limits,
            accounts=accounts_of(limits, callers),
            permits=permits_of(limits, callers),
            routing=routing_load(),
            backends=backends_load(),
            nodes=nodes_load(),
            emergency=emergency_load(),
            use_counts=use_counts(),
            loaded_at=time.time(),
        )
        self._revision = catalogue.revision
        self._tell(self._state.accept_snapshot, snapshot)

    def _news(self) -> bool:
        """Whether a notification concerns us. Those that came beside other answers wait in psycopg, not in the socket,
        so this is asked before each wait."""
        # All of them are taken before one is looked at: ten changes are one reload. "desired" is for supervisors.
        payloads = [notice.payload for notice in self._postgres.notifies(timeout=0)]
        return any(payload != "desired" for payload in payloads)

    def _write_usage(self) -> None:
        while not self._usage.empty():
            self._pending_usage.update(self._usage.get_nowait())
        if self._pending_usage:
            usage_add(counts=self._pending_usage)
            self._pending_usage.clear()

    def _write_last_usage(self) -> None:
        try:
            self._write_usage()
        except (DatabaseError, InterfaceError, psycopg.Error) as fault:
            log.warning("The last use counts are lost", reason=first_line(fault), counts=dict(self._pending_usage))
        finally:
            self._disconnect()

    def _disconnect(self) -> None:
        lifeline, self._lifeline = self._lifeline, None
        if lifeline is not None:
            lifeline.close()
        connection.close()

    def _wait(self, seconds: float, *descriptors: int) -> bool:
        """Sleep until a descriptor has something to read or we are woken."""
        poll = select.poll()
        for descriptor in (self._wake_receive, *descriptors):
            poll.register(descriptor, select.POLLIN)
        ready = [descriptor for descriptor, _ in poll.poll(seconds * 1000)]
        if self._wake_receive in ready:
            os.read(self._wake_receive, 4096)
        return bool(ready)

    @property
    def _postgres(self) -> "psycopg.Connection[object]":
        postgres: psycopg.Connection[object] = connection.connection
        return postgres

    def _tell_fault(self, fault: Exception) -> None:
        self._tell(self._state.accept_contact, DatabaseContact(last=self._state.database.last, fault=first_line(fault)))

    def _tell(self, accept: Callable[[T], None], value: T) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop has ended before us
            self._loop.call_soon_threadsafe(accept, value)


def _cache_rights() -> CacheRights:
    return CacheRights(
        default_tenant=DEFAULT_TENANT,
        default=default_partition_load(),
        shared=shared_partition_load(),
        shared_prompts=shared_prompts_load(),
    )
