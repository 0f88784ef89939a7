"""Advisory locks of the whole installation, held by the current database session."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection

SCAN = "scan"
"""Who decides which file is which version."""
HASH = "hash"
"""Who reads whole files."""
HEALTH = "health"
"""Who decides how models are doing. Whoever has it may wait for SCAN, never the other way round."""


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Wait for the lock; it also ends with the session."""
    _ask("SELECT pg_advisory_lock(hashtext('nopenai'), hashtext(%s))", name)
    with _unlocking(name):
        yield


@contextmanager
def lock_tried(name: str) -> Iterator[bool]:
    """Whether the lock could be had at once."""
    if not _ask("SELECT pg_try_advisory_lock(hashtext('nopenai'), hashtext(%s))", name):
        yield False
        return
    with _unlocking(name):
        yield True


@contextmanager
def _unlocking(name: str) -> Iterator[None]:
    try:
        yield
    finally:
        if connection.is_usable():
            _ask("SELECT pg_advisory_unlock(hashtext('nopenai'), hashtext(%s))", name)
        else:
            connection.close()  # the lock ends with the session, which can't be asked any more


def _ask(query: str, name: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(query, [name])
        (answer,) = cursor.fetchone()
    return bool(answer)
