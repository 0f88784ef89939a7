"""``manage.py keys create|list|show|update|rotate|revoke|tenants|tenant-create|tenant-update``."""

import argparse
import json
import re
import shlex
from argparse import ArgumentTypeError
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from quotas.access import selectors, services
from quotas.caller_limits import LIMIT_FIELDS
from quotas.callers import Role
from quotas.models import ApiKey, Tenant
from registry.command import Action, OperatorCommand

_SPAN = r"([1-9][0-9]{0,3})([mhdw])"
_JSON_HELP = "one JSON object a line"
_KEY_HELP = "its number, or how its secret begins"
_NONE = "none"
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


class Command(OperatorCommand):
    help = "Create, list, rotate and revoke API keys, and make the tenants that own them."

    def add_arguments(self, parser: CommandParser) -> None:
        commands = parser.add_subparsers(dest="command", metavar="COMMAND")
        create = commands.add_parser("create", help="make a key and print its secret, once")
        create.add_argument("--name", default="", help="what it is for")
        create.add_argument("--role", default=Role.INFERENCE, choices=[role.value for role in Role])
        create.add_argument("--tenant", default=services.DEFAULT_TENANT, help="whose it is; `default` if absent")
        _add_key_settings(create, absent="without it")
        update = commands.add_parser("update", help="change a key; what is not named stays")
        update.add_argument("key", help=_KEY_HELP)
        update.add_argument("--name", default=argparse.SUPPRESS, help="what it is for")
        _add_key_settings(update, absent="`none`")
        show = commands.add_parser("show", help="show all of one key but its secret, as JSON")
        show.add_argument("key", help=_KEY_HELP)
        listing = commands.add_parser("list", help="show all keys, without their secrets")
        listing.add_argument("--json", action="store_true", help=_JSON_HELP)
        rotate = commands.add_parser("rotate", help="replace a key by a new one and revoke it")
        rotate.add_argument("key", help=_KEY_HELP)
        rotate.add_argument(
            "--overlap", type=_span, default=timedelta(0), help="so long the old one works on: 30m, 12h, 7d"
        )
        revoke = commands.add_parser("revoke", help="make a key useless for good")
        revoke.add_argument("key", help=_KEY_HELP)
        tenants = commands.add_parser("tenants", help="show all tenants, their share and limits")
        tenants.add_argument("--json", action="store_true", help=_JSON_HELP)
        tenant = commands.add_parser(
            "tenant-create", help="make a tenant: keys of its own, a part of the cache of its own"
        )
        tenant.add_argument("name")
        _add_tenant_settings(tenant)
        change = commands.add_parser("tenant-update", help="change a tenant; what is not named stays")
        change.add_argument("name")
        _add_tenant_settings(change)

    def actions(self) -> Mapping[str, Action]:
        return {
            "create": self._create,
            "update": self._update,
            "show": self._show,
            "list": self._list,
            "rotate": self._rotate,
            "revoke": self._revoke,
            "tenants": self._tenants,
            "tenant-create": self._tenant_create,
            "tenant-update": self._tenant_update,
        }

    def _create(self, options: dict[str, Any]) -> None:
        self._show_secret(
            *services.key_create(
                tenant=options["tenant"],
                name=options["name"],
                role=options["role"],
                expires_at=options.get("expires_at"),
                settings=_named(options, services.KEY_SETTINGS),
            )
        )

    def _update(self, options: dict[str, Any]) -> None:
        changes = _named(options, ("name", "expires_at", *services.KEY_SETTINGS))
        key = services.key_update(key_pk=selectors.key_by_name(options["key"]).pk, changes=changes)
        self.stderr.write(f"Key {key.pk} ({key.prefix}…): {', '.join(changes) or 'nothing'} changed.")

    def _show(self, options: dict[str, Any]) -> None:
        self.stdout.write(json.dumps(_record(selectors.key_by_name(options["key"])), indent=2))

    def _rotate(self, options: dict[str, Any]) -> None:
        key = selectors.key_by_name(options["key"])
        self._show_secret(*services.key_rotate(key_pk=key.pk, overlap=options["overlap"]))

    def _show_secret(self, key: ApiKey, secret: str) -> None:
        """The secret alone goes to standard output, so that ``KEY=$(manage.py keys create)`` works."""
        self.stderr.write(
            f"{key.role} key {key.pk} of tenant {key.tenant.name}, {_until(key)}. "
            "Keep the secret now; it is not shown again:",
            self.style.SUCCESS,
        )
        self.stdout.write(secret)

    def _list(self, options: dict[str, Any]) -> None:
        keys = list(selectors.keys_list())
        if options["json"]:
            for key in keys:
                self.stdout.write(json.dumps(_record(key)))
            return
        if not keys:
            self.stderr.write("There are no API keys yet: `.venv/bin/python manage.py keys create` makes one.")
            return
        rows = [("NUMBER", "BEGINS", "TENANT", "ROLE", "STATE", "USED", "NAME")]
        rows += [
            (str(key.pk), f"{key.prefix}…", key.tenant.name, key.role, _until(key), _used(key), key.name)
            for key in keys
        ]
        self.table(rows)

    def _revoke(self, options: dict[str, Any]) -> None:
        key = services.key_revoke(key_pk=selectors.key_by_name(options["key"]).pk)
        self.stderr.write(f"Key {key.pk} ({key.prefix}…) is {_until(key)}.", self.style.SUCCESS)

    def _tenants(self, options: dict[str, Any]) -> None:
        tenants = list(selectors.tenants_list())
        if options["json"]:
            for tenant in tenants:
                self.stdout.write(json.dumps(_tenant_record(tenant)))
            return
        if not tenants:
            self.stderr.write("There are no tenants yet: the first key makes 'default', `keys tenant-create` others.")
            return
        rows = [("NAME", "WEIGHT", "WORKING KEYS", "LIMITS")]
        rows += [(each.name, f"{each.weight:g}", str(_working_keys(each)), _limits(each)) for each in tenants]
        self.table(rows)

    def _tenant_create(self, options: dict[str, Any]) -> None:
        tenant = services.tenant_create(name=options["name"], settings=_named(options, services.TENANT_SETTINGS))
        self.stdout.write(
            f"There is a tenant '{tenant.name}' now. A key of it: "
            f".venv/bin/python manage.py keys create --tenant {shlex.quote(tenant.name)}"
        )

    def _tenant_update(self, options: dict[str, Any]) -> None:
        changes = _named(options, services.TENANT_SETTINGS)
        services.tenant_update(name=options["name"], changes=changes)
        self.stderr.write(f"Tenant '{options['name']}': {', '.join(changes) or 'nothing'} changed.")


def _add_key_settings(parser: CommandParser, *, absent: str) -> None:
    """Those that are not given are not named at all, so that an update leaves them alone.

    Args:
        absent: how no expiry and no list is said.
    """
    parser.add_argument(
        "--expires",
        dest="expires_at",
        type=_expiry,
        default=argparse.SUPPRESS,
        help=f"a date, a time (ISO 8601), or a span such as 12h, 30d, 8w; {absent}: it is valid without end",
    )
    parser.add_argument("--max-priority", type=int, default=argparse.SUPPRESS, help="0-10")
    for what in ("model", "route"):
        parser.add_argument(
            f"--allow-{what}",
            dest=f"allowed_{what}s",
            action=_NameList,
            default=argparse.SUPPRESS,
            metavar=what.upper(),
            help=f"a {what} that it may ask for, once for each; {absent}: all",
        )
    _add_limits(parser)


def _add_tenant_settings(parser: CommandParser) -> None:
    parser.add_argument("--weight", type=float, default=argparse.SUPPRESS, help="its share where tenants take turns")
    _add_limits(parser)


def _add_limits(parser: CommandParser) -> None:
    limits = parser.add_argument_group("limits", "a number, or none")
    for name in LIMIT_FIELDS:
        option = f"--{name.replace('_', '-')}"
        limits.add_argument(option, type=_limit, default=argparse.SUPPRESS, metavar="N")


def _named(options: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: options[name] for name in names if name in options}


class _NameList(argparse.Action):
    """Collects names; ``none`` alone is no list at all."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        given = hasattr(namespace, self.dest)
        names = getattr(namespace, self.dest, None)
        if given and (names is None or values == _NONE):
            parser.error(f"{option_string}: '{_NONE}' takes the whole list away, so it goes without names beside it")
        setattr(namespace, self.dest, None if values == _NONE else [*(names or ()), values])


def _limit(raw: str) -> int | None:
    if raw == _NONE:
        return None
    if raw.isascii() and raw.isdigit():
        return int(raw)
    raise ArgumentTypeError(f"'{raw}' is neither a whole number nor 'none'")


def _used(key: ApiKey) -> str:
    used_at = selectors.last_used_at(key)
    return f"{used_at:%Y-%m-%d %H:%M}" if used_at else "never"


def _until(key: ApiKey) -> str:
    if key.revoked_at:
        return f"revoked {key.revoked_at:%Y-%m-%d %H:%M} UTC"
    if key.expires_at is None:
        return "valid without end"
    return f"{'expired' if key.expires_at <= timezone.now() else 'valid until'} {key.expires_at:%Y-%m-%d %H:%M} UTC"


def _record(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.pk,
        "prefix": key.prefix,
        "tenant": key.tenant.name,
        "role": key.role,
        "name": key.name,
        "created_at": key.created_at.isoformat(),
        "expires_at": key.expires_at.isoformat() if key.expires_at else None,
        "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
        "last_used_at": used_at.isoformat() if (used_at := selectors.last_used_at(key)) else None,
        "rotated_from": key.rotated_from_id,
        **{name: getattr(key, name) for name in services.KEY_SETTINGS},
    }


def _tenant_record(tenant: Tenant) -> dict[str, Any]:
    return {
        "name": tenant.name,
        "created_at": tenant.created_at.isoformat(),
        "active_keys": _working_keys(tenant),
        **{name: getattr(tenant, name) for name in services.TENANT_SETTINGS},
    }


def _working_keys(tenant: Any) -> int:
    """As the selector counted them."""
    return int(tenant.active_keys)


def _limits(row: Tenant) -> str:
    """``tokens-per-day 1000000``, as the options that set them are called."""
    values = {name.replace("_", "-"): getattr(row, name) for name in LIMIT_FIELDS}
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None) or "none"


def _span(raw: str) -> timedelta:
    if span := re.fullmatch(_SPAN, raw):
        return int(span[1]) * _UNITS[span[2]]
    raise ArgumentTypeError(f"'{raw}' is not a span such as 30m, 12h, 7d")


def _expiry(raw: str) -> datetime | None:
    """``30d`` from now, the end of a day, or a moment; without a zone, in the server's. None: never."""
    if raw == _NONE:
        return None
    if re.fullmatch(_SPAN, raw):
        return timezone.now() + _span(raw)
    try:
        if day := parse_date(raw):
            return timezone.make_aware(datetime(day.year, day.month, day.day) + timedelta(days=1))  # noqa: DTZ001
        moment = parse_datetime(raw)
    except ValueError as fault:
        raise ArgumentTypeError(f"'{raw}' is not a date: {fault}") from fault
    if moment is None:
        raise ArgumentTypeError(f"'{raw}' is neither a date, a time (ISO 8601), a span such as 12h, 30d, 8w nor 'none'")
    return moment if timezone.is_aware(moment) else timezone.make_aware(moment)
