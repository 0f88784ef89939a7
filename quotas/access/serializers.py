"""What the endpoints of tenants and keys take and give."""

from datetime import datetime
from typing import Any

from rest_framework import serializers

from quotas.access.selectors import last_used_at
from quotas.access.services import LONGEST_OVERLAP
from quotas.caller_limits import HIGHEST_LIMIT, HIGHEST_WEIGHT, LIMIT_FIELDS, LOWEST_WEIGHT, WINDOWS
from quotas.callers import DEFAULT_PRIORITY, HIGHEST_PRIORITY, Role
from quotas.models import ApiKey
from quotas.serializers import OR_NO_LIMIT
from registry.rest import StrictInput, StrictInteger, StrictMoment, StrictNumber, StrictString

_ROLES = [role.value for role in Role]


def _limit_help(name: str) -> str:
    if name not in WINDOWS:
        return "Requests at the same time, over all gateways of a node."
    unit, period = WINDOWS[name]
    return f"{unit.value.capitalize()} in a {period}; null: no limit."


class _Limits(StrictInput):
    """A partial change of limits: what is not named stays; null takes a limit away."""

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        limits = {
            name: StrictInteger(
                required=False,
                allow_null=True,
                min_value=0,
                max_value=HIGHEST_LIMIT,
                error_messages=OR_NO_LIMIT,
                help_text=_limit_help(name),
            )
            for name in LIMIT_FIELDS
        }
        return {**super().get_fields(), **limits}


class _LimitsOut(serializers.Serializer[Any]):
    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        limits = {name: serializers.IntegerField(allow_null=True, help_text=_limit_help(name)) for name in LIMIT_FIELDS}
        return {**super().get_fields(), **limits}


class _Names(serializers.ListField):
    child = StrictString(max_length=200)


def _names(help_text: str) -> _Names:
    return _Names(required=False, allow_null=True, max_length=1000, help_text=help_text)


class TenantPatch(_Limits):
    weight = StrictNumber(
        required=False,
        min_value=LOWEST_WEIGHT,
        max_value=HIGHEST_WEIGHT,
        help_text="Its share where tenants take turns; 1 if never set.",
    )


class TenantCreate(TenantPatch):
    name = StrictString(max_length=100)


class TenantOut(_LimitsOut):
    name = serializers.CharField()
    weight = serializers.FloatField()
    active_keys = serializers.IntegerField(help_text="Neither revoked nor expired.")
    created_at = serializers.DateTimeField()


class KeyPatch(_Limits):
    name = StrictString(required=False, allow_blank=True, max_length=100, help_text="What the key is for.")
    expires_at = StrictMoment(required=False, allow_null=True, help_text="Null: never.")
    max_priority = StrictInteger(
        required=False,
        min_value=0,
        max_value=HIGHEST_PRIORITY,
        help_text=f"What its requests ask for beyond is cut to this; {DEFAULT_PRIORITY} if never set.",
    )
    allowed_models = _names("Ids of models that it may ask for. Null: all.")
    allowed_routes = _names("Names of routes that it may ask for, such as auto. Null: all.")


class KeyCreate(KeyPatch):
    tenant = StrictString(required=False, max_length=100, help_text="'default' if absent.")
    role = StrictString(required=False, help_text=f"One of {', '.join(_ROLES)}; inference if absent.")


class KeyRotate(StrictInput):
    overlap_seconds = StrictInteger(
        required=False,
        min_value=0,
        max_value=int(LONGEST_OVERLAP.total_seconds()),
        help_text="So long the old key goes on working; 0 if absent.",
    )


class KeyOut(_LimitsOut):
    id = serializers.IntegerField()
    prefix = serializers.CharField(help_text="How the secret begins.")
    tenant = serializers.CharField(source="tenant.name")
    name = serializers.CharField(allow_blank=True)
    role = serializers.ChoiceField(choices=_ROLES)
    max_priority = serializers.IntegerField()
    allowed_models = serializers.ListField(child=serializers.CharField(), allow_null=True)
    allowed_routes = serializers.ListField(child=serializers.CharField(), allow_null=True)
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField(allow_null=True)
    revoked_at = serializers.DateTimeField(allow_null=True)
    last_used_at = serializers.SerializerMethodField(help_text="Known to the second; null: never.")
    rotated_from = serializers.IntegerField(
        source="rotated_from_id", allow_null=True, help_text="The key that it took the place of."
    )

    def get_last_used_at(self, key: ApiKey) -> datetime | None:
        return last_used_at(key)


class NewKeyOut(KeyOut):
    secret = serializers.SerializerMethodField(help_text="Shown in this answer only.")

    def get_secret(self, key: ApiKey) -> str:
        return str(self.context["secret"])
