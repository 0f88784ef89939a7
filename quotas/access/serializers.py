"""What the endpoints of tenants and keys take and give."""

from typing import Any

from rest_framework import serializers

from quotas.callers import Role
from quotas.models import ApiKey
from registry.rest import StrictInput, StrictMoment, StrictString

_ROLES = [role.value for role in Role]


class TenantCreate(StrictInput):
    name = StrictString(max_length=100)


class TenantOut(serializers.Serializer[Any]):
    name = serializers.CharField()
    active_keys = serializers.IntegerField(help_text="Neither revoked nor expired.")
    created_at = serializers.DateTimeField()


class KeyCreate(StrictInput):
    tenant = StrictString(required=False, max_length=100, help_text="'default' if absent.")
    name = StrictString(required=False, allow_blank=True, max_length=100, help_text="What the key is for.")
    role = StrictString(required=False, help_text=f"One of {', '.join(_ROLES)}; inference if absent.")
    expires_at = StrictMoment(required=False, allow_null=True, help_text="Never if absent.")


class KeyOut(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    prefix = serializers.CharField(help_text="How the secret begins.")
    tenant = serializers.CharField(source="tenant.name")
    name = serializers.CharField(allow_blank=True)
    role = serializers.ChoiceField(choices=_ROLES)
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField(allow_null=True)
    revoked_at = serializers.DateTimeField(allow_null=True)


class NewKeyOut(KeyOut):
    secret = serializers.SerializerMethodField(help_text="Shown in this answer only.")

    def get_secret(self, key: ApiKey) -> str:
        return str(self.context["secret"])
