"""``manage.py keys create|list|rotate|revoke|tenants|tenant-create``."""

import json
import re
import shlex
from argparse import ArgumentTypeError
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from quotas.access import selectors, services
from quotas.callers import Role
from quotas.models import ApiKey
from registry.command import Action, OperatorCommand

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


class Command(OperatorCommand):
    help = "Create, list, rotate and revoke API keys, and make the tenants that own them."

    def add_arguments(self, parser: CommandParser) -> None:
        commands = parser.add_subparsers(dest="command", metavar="COMMAND")
        create = commands.add_parser("create", help="make a key and print its secret, once")
        create.add_argument("--name", default="", help="what it is for")
        create.add_argument("--role", default=Role.INFERENCE, choices=[role.value for role in Role])
        create.add_argument("--tenant", default=services.DEFAULT_TENANT, help="whose it is; `default` if absent")
        create.add_argument("--expires", type=_expiry, help="a date, a time (ISO 8601), or a span such as 12h, 30d, 8w")
        listing = commands.add_parser("list", help="show all keys, without their secrets")
        listing.add_argument("--json", action="store_true", help="one JSON object a line")
        rotate = commands.add_parser("rotate", help="replace a key by a new one and revoke it")
        rotate.add_argument("key", help="its number, or how its secret begins")
        revoke = commands.add_parser("revoke", help="make a key useless for good")
        revoke.add_argument("key", help="its number, or how its secret begins")
        commands.add_parser("tenants", help="show all tenants")
        tenant = commands.add_parser(
            "tenant-create", help="make a tenant: keys of its own, a part of the cache of its own"
        )
        tenant.add_argument("name")

    def actions(self) -> Mapping[str, Action]:
        return {
            "create": self._create,
            "list": self._list,
            "rotate": self._rotate,
            "revoke": self._revoke,
            "tenants": self._tenants,
            "tenant-create": self._tenant_create,
        }

    def _create(self, options: dict[str, Any]) -> None:
        self._show_secret(
            *services.key_create(
                tenant=options["tenant"], name=options["name"], role=options["role"], expires_at=options["expires"]
            )
        )

    def _rotate(self, options: dict[str, Any]) -> None:
        self._show_secret(*services.key_rotate(key_pk=selectors.key_by_name(options["key"]).pk))

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
        rows = [("NUMBER", "BEGINS", "TENANT", "ROLE", "STATE", "NAME")]
        rows += [(str(key.pk), f"{key.prefix}…", key.tenant.name, key.role, _until(key), key.name) for key in keys]
        self.table(rows)

    def _revoke(self, options: dict[str, Any]) -> None:
        key = services.key_revoke(key_pk=selectors.key_by_name(options["key"]).pk)
        self.stderr.write(f"Key {key.pk} ({key.prefix}…) is {_until(key)}.", self.style.SUCCESS)

    def _tenants(self, options: dict[str, Any]) -> None:
        for tenant in selectors.tenants_list():
            self.stdout.write(tenant.name)

    def _tenant_create(self, options: dict[str, Any]) -> None:
        tenant = services.tenant_create(name=options["name"])
        self.stdout.write(
            f"There is a tenant '{tenant.name}' now. A key of it: "
            f".venv/bin/python manage.py keys create --tenant {shlex.quote(tenant.name)}"
        )


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
    }


def _expiry(raw: str) -> datetime:
    """``30d`` from now, the end of a day, or a moment; without a zone, in the server's."""
    if span := re.fullmatch(r"([1-9][0-9]{0,3})([mhdw])", raw):
        return timezone.now() + int(span[1]) * _UNITS[span[2]]
    try:
        if day := parse_date(raw):
            return timezone.make_aware(datetime(day.year, day.month, day.day) + timedelta(days=1))  # noqa: DTZ001
        moment = parse_datetime(raw)
    except ValueError as fault:
        raise ArgumentTypeError(f"'{raw}' is not a date: {fault}") from fault
    if moment is None:
        raise ArgumentTypeError(f"'{raw}' is neither a date, a time (ISO 8601) nor a span such as 12h, 30d, 8w")
    return moment if timezone.is_aware(moment) else timezone.make_aware(moment)
