"""The servers that the tests run beside are real ones."""

import pytest
import redis
from django.conf import settings
from django.db import connection


@pytest.mark.django_db
def test_the_database_is_a_postgresql_that_speaks_utf8() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "select current_setting('server_version_num')::int, current_setting('server_encoding'), %s", ["س"]
        )
        version, encoding, letter = cursor.fetchone() or (0, "", "")
    assert version >= 150_000
    assert (encoding, letter) == ("UTF8", "س")


@pytest.mark.django_db
def test_the_role_we_connect_as_is_no_superuser() -> None:
    with connection.cursor() as cursor:
        cursor.execute("select rolsuper from pg_roles where rolname = current_user")
        assert cursor.fetchone() == (False,)


def test_the_broker_is_a_redis_that_answers() -> None:
    assert redis.Redis.from_url(settings.REDIS_URL).ping()
