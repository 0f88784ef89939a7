"""``manage.py prepare``: migrations, and the first administrator. ``manage.py up`` runs it; so may a deployment."""

import json
import os
import secrets
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import OperationalError, connection

from nopenai_site import logs
from nopenai_site.secret_key import secret_key_make
from registry.errors import first_line

UNREACHABLE = 5
"""Exit status when the database or the broker does not answer."""

# Any number does, as long as nobody else on this database uses it; these are the letters "nopenai".
_LOCK = int.from_bytes(b"nopenai", "big")


class Command(BaseCommand):
    help = "Migrate the database and, on the first run, make the administrator. Safe to run at any time, by anyone."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--report-fd", type=int, help="write what was done to this descriptor, as JSON")

    def handle(self, *args: Any, report_fd: int | None = None, **options: Any) -> None:
        logs.configure(settings.NOPENAI.log_level, module="prepare")
        secret_key_make(settings.NOPENAI.data_dir)  # migrations seal with it
        fault = unreachable()
        if fault is not None:
            self._report(report_fd, {"fault": fault})
            raise SystemExit(UNREACHABLE)
        with _only_one():
            call_command("migrate", interactive=False, verbosity=0, skip_checks=True)
            self._report(report_fd, first_administrator())

    def _report(self, descriptor: int | None, answer: dict[str, str | None]) -> None:
        if descriptor is not None:
            with os.fdopen(descriptor, "w") as pipe:
                json.dump(answer, pipe)
        elif "fault" in answer:
            self.stderr.write(str(answer["fault"]))
        elif answer:
            self.stdout.write(f"Administrator {answer['admin_user']}, password {answer['admin_password'] or '(yours)'}")


def unreachable() -> str | None:
    """Why the database or the broker can't be used, in words for an operator; None: both answer."""
    try:
        connection.ensure_connection()
    except OperationalError as fault:
        return f"The database does not answer. Check DATABASE_URL and that PostgreSQL runs there: {first_line(fault)}"
    try:
        with redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=5, socket_timeout=5) as broker:
            broker.ping()
    except redis.RedisError as fault:
        return f"The broker does not answer. Check REDIS_URL and that Redis runs there: {first_line(fault)}"
    return None


def first_administrator() -> dict[str, str | None]:
    """Make the administrator when there is no superuser yet.

    Returns what is to be told: the user, and the password if we drew it; nothing when there was one already.
    """
    users = get_user_model().objects
    if users.filter(is_superuser=True).exists():
        return {}
    name, chosen = settings.NOPENAI.admin_user, settings.NOPENAI.admin_password
    password = chosen or secrets.token_urlsafe(12)
    users.create_superuser(username=name, password=password)
    return {"admin_user": name, "admin_password": None if chosen else password}


@contextmanager
def _only_one() -> Iterator[None]:
    """Two nodes that start at once on one database migrate it one after the other."""
    with connection.cursor() as cursor:
        cursor.execute("select pg_advisory_lock(%s)", [_LOCK])
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("select pg_advisory_unlock(%s)", [_LOCK])
