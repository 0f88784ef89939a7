"""SQL beside the loop: a database that is slow, away or frozen stops neither the loop nor its end."""

import asyncio
import os
import queue
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import psycopg
from django.db import Error, close_old_connections, connection

from registry.errors import first_line

T = TypeVar("T")


class DatabaseAway(Exception):
    """Nothing can be read or written now; a retry can help."""


class SqlThread:
    """Calls functions that use Django's ORM, one after the other, in a thread of its own.

    The thread is a daemon: it can't keep the process from ending, whatever it waits for.
    """

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._session: psycopg.Connection[object] | None = None
        """What the call under way talks through, once it is connected."""
        threading.Thread(target=self._run, name=name, daemon=True).start()

    async def call(self, function: Callable[[], T], *, seconds: float) -> T:
        """The function's result.

        Raises:
            DatabaseAway: when the database fails it, or it takes longer than ``seconds``; its session is then cut, so
                that the thread is free again.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            try:
                self._connect()
                result = function()
            except BaseException as fault:
                outcome = fault
                _tell(loop, answer, lambda future: future.set_exception(outcome))
            else:
                _tell(loop, answer, lambda future: future.set_result(result))

        self._calls.put(run)
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError as fault:
            if self._session is not None:
                cut(self._session)
            raise DatabaseAway(f"no answer from PostgreSQL within {seconds:g} s") from fault
        except Error as fault:
            raise DatabaseAway(first_line(fault)) from fault

    def close(self) -> None:
        """Let the thread end, and its session with it, after the calls that wait."""
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
        connection.close()

    def _connect(self) -> None:
        """Have a session that works, and let :meth:`call` know it; a connect has a time limit of its own."""
        close_old_connections()
        connection.close_if_health_check_failed()
        connection.ensure_connection()
        self._session = connection.connection


def _tell(
    loop: asyncio.AbstractEventLoop, answer: "asyncio.Future[T]", settle: Callable[["asyncio.Future[T]"], None]
) -> None:
    def tell() -> None:
        if not answer.done():
            settle(answer)

    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(tell)


def cut(session: "psycopg.Connection[object] | psycopg.AsyncConnection[object]") -> None:
    """End a session's socket under whoever waits on it: they get an error, where a frozen server gives nothing."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(session.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)
