"""``manage.py keys`` as an operator types it."""

import json
import re
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError
from django.utils import timezone

from quotas import callers
from quotas.access import selectors, services
from quotas.management.commands.keys import Command

pytestmark = pytest.mark.django_db


def keys(*arguments: str) -> tuple[str, str]:
    out, err = StringIO(), StringIO()
    call_command("keys", *arguments, stdout=out, stderr=err, no_color=True)
    return out.getvalue(), err.getvalue()


def test_create_prints_the_secret_alone_on_standard_output() -> None:
    out, err = keys("create")
    assert re.fullmatch(r"nok_[\w-]{43}\n", out)
    assert "not shown again" in err
    assert out.strip() not in err
    assert callers.digest(out.strip()) in selectors.callers_load()


def test_create_takes_tenant_role_name_and_a_span() -> None:
    services.tenant_create(name="acme")
    out, _ = keys("create", "--tenant", "acme", "--role", "operator", "--name", "ci", "--expires", "30d")
    caller = selectors.callers_load()[callers.digest(out.strip())]
    assert (caller.tenant, caller.role) == ("acme", "operator")
    assert caller.expires_at is not None
    assert abs(caller.expires_at - (timezone.now() + timedelta(days=30)).timestamp()) < 60


def test_a_date_includes_that_day() -> None:
    out, _ = keys("create", "--expires", "2099-05-01")
    caller = selectors.callers_load()[callers.digest(out.strip())]
    assert caller.expires_at == datetime(2099, 5, 2, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("expiry", ["soon", "30x", "2099-13-01", "-3d", "0d"])
def test_an_expiry_that_is_none_is_refused(expiry: str) -> None:
    with pytest.raises(CommandError, match=r"not a date|neither"):
        keys("create", f"--expires={expiry}")


def test_an_expiry_in_the_past_is_refused() -> None:
    with pytest.raises(CommandError, match="past"):
        keys("create", "--expires", "2001-01-01")


def test_an_unknown_role_is_told_which_there_are() -> None:
    with pytest.raises(CommandError, match=r"choose from '?inference'?, '?operator'?, '?admin'?\)"):
        keys("create", "--role", "boss")


def test_an_unknown_tenant_is_an_error_in_words() -> None:
    with pytest.raises(CommandError, match="acme"):
        keys("create", "--tenant", "acme")


def test_list_shows_every_key_and_no_secret() -> None:
    secret = keys("create", "--name", "laptop")[0].strip()
    out, _ = keys("list")
    assert "laptop" in out
    assert secret[:12] in out
    assert secret not in out


def test_list_as_json_is_one_object_a_line() -> None:
    keys("create")
    keys("create", "--role", "admin")
    roles = [json.loads(line)["role"] for line in keys("list", "--json")[0].splitlines()]
    assert roles == ["inference", "admin"]


def test_an_empty_list_says_what_to_do() -> None:
    assert "keys create" in keys("list")[1]


def test_revoke_takes_a_number_a_prefix_or_the_whole_secret() -> None:
    for name in ("number", "prefix", "secret"):
        secret = keys("create")[0].strip()
        pk = selectors.key_by_name(secret[:12]).pk
        keys("revoke", {"number": str(pk), "prefix": secret[:12], "secret": secret}[name])
        assert selectors.callers_load() == {}


def test_an_ambiguous_prefix_revokes_nothing() -> None:
    keys("create")
    keys("create")
    with pytest.raises(CommandError, match="Several"):
        keys("revoke", "nok_")
    assert len(selectors.callers_load()) == 2


def test_an_unknown_key_is_an_error_in_words() -> None:
    with pytest.raises(CommandError, match="keys list"):
        keys("revoke", "nok_nosuch")


def test_rotate_prints_the_new_secret() -> None:
    old = keys("create")[0].strip()
    new = keys("rotate", old[:12])[0].strip()
    assert list(selectors.callers_load()) == [callers.digest(new)]


def test_a_database_that_is_away_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(**_: object) -> None:
        raise OperationalError("connection refused")

    monkeypatch.setattr(services, "key_create", away)
    with pytest.raises(CommandError, match="check DATABASE_URL"):
        keys("create")


def test_an_unknown_tenant_is_made_as_the_refusal_says() -> None:
    with pytest.raises(CommandError, match=r"keys tenant-create acme$"):
        keys("create", "--tenant", "acme")
    out, _ = keys("tenant-create", "acme")
    assert "keys create --tenant acme" in out
    assert keys("create", "--tenant", "acme")[0].startswith("nok_")
    assert [line.split()[0] for line in keys("tenants")[0].splitlines()] == ["NAME", "acme"]


def test_alone_it_says_what_there_is() -> None:
    assert "tenant-create" in keys()[0]


def test_limits_are_given_changed_and_taken_away() -> None:
    out, _ = keys("create", "--tokens-per-hour", "100", "--requests-per-minute", "6", "--allow-route", "auto")
    number = str(selectors.keys_list().get().pk)
    keys("update", number, "--tokens-per-hour", "none", "--max-priority", "8", "--name", "ci")
    shown = json.loads(keys("show", number)[0])
    assert (shown["tokens_per_hour"], shown["requests_per_minute"], shown["max_priority"]) == (None, 6, 8)
    assert (shown["allowed_routes"], shown["allowed_models"], shown["name"]) == (["auto"], None, "ci")
    assert out.strip() not in str(shown)


def test_none_takes_the_expiry_and_the_lists_of_a_key_away() -> None:
    keys("create", "--expires", "30d", "--allow-route", "auto")
    number = str(selectors.keys_list().get().pk)
    keys("update", number, "--name", "ci")
    kept = json.loads(keys("show", number)[0])
    assert kept["expires_at"] is not None
    assert kept["allowed_routes"] == ["auto"]
    keys("update", number, "--expires", "none", "--allow-route", "none", "--allow-model", "none")
    shown = json.loads(keys("show", number)[0])
    assert (shown["expires_at"], shown["allowed_routes"], shown["allowed_models"]) == (None, None, None)


@pytest.mark.parametrize("routes", [("none", "auto"), ("auto", "none")])
def test_none_beside_a_name_is_refused(routes: tuple[str, str]) -> None:
    keys("create", "--allow-route", "auto")
    number = str(selectors.keys_list().get().pk)
    with pytest.raises(CommandError, match="without names beside it"):
        keys("update", number, "--allow-route", routes[0], "--allow-route", routes[1])


def test_the_help_says_how_an_expiry_and_a_list_are_taken_away() -> None:
    told = {}
    for command in ("create", "update"):
        parser = Command().create_parser("manage.py", "keys")
        with pytest.raises(SystemExit), redirect_stdout(StringIO()) as out:
            parser.parse_args([command, "--help"])
        told[command] = " ".join(out.getvalue().split())
    assert "`none`: it is valid without end" in told["update"] and "once for each; `none`: all" in told["update"]
    assert "once for each; without it: all" in told["create"]


def test_a_tenant_has_a_weight_and_limits() -> None:
    keys("tenant-create", "acme", "--weight", "2", "--tokens-per-day", "5")
    keys("tenant-update", "acme", "--tokens-per-day", "none", "--max-concurrent-requests", "3")
    tenant = selectors.tenant_find(name="acme")
    assert (tenant.weight, tenant.tokens_per_day, tenant.max_concurrent_requests) == (2.0, None, 3)


def test_tenants_are_shown_with_their_weight_keys_and_limits() -> None:
    assert "tenant-create" in keys("tenants")[1]
    keys("tenant-create", "acme", "--weight", "2.5", "--tokens-per-day", "5", "--max-concurrent-requests", "3")
    keys("create")
    head, *rows = keys("tenants")[0].splitlines()
    assert [row.split(maxsplit=3) for row in rows] == [
        ["acme", "2.5", "0", "tokens-per-day 5, max-concurrent-requests 3"],
        ["default", "1", "1", "none"],
    ]
    assert head.split() == ["NAME", "WEIGHT", "WORKING", "KEYS", "LIMITS"]
    acme, default = (json.loads(line) for line in keys("tenants", "--json")[0].splitlines())
    assert (acme["name"], acme["weight"], acme["tokens_per_day"], acme["tokens_per_hour"]) == ("acme", 2.5, 5, None)
    assert (default["name"], default["active_keys"]) == ("default", 1)


def test_rotate_takes_an_overlap() -> None:
    old = keys("create")[0].strip()
    new = keys("rotate", old[:12], "--overlap", "1d")[0].strip()
    assert {callers.digest(old), callers.digest(new)} <= selectors.callers_load().keys()
    with pytest.raises(CommandError, match=rf"{new[:12]}… \(number \d+\) has taken its place. Rotate that one"):
        keys("rotate", old[:12])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("create", "--tokens-per-hour=-1"), "neither a whole number nor 'none'"),
        (("create", "--tokens-per-hour", "many"), "neither a whole number nor 'none'"),
        (("create", "--max-priority", "11"), "must be between 0 and 10"),
    ],
)
def test_a_bad_limit_is_refused_and_makes_no_key(arguments: tuple[str, ...], told: str) -> None:
    with pytest.raises(CommandError, match=told):
        keys(*arguments)
    assert selectors.callers_load() == {}
