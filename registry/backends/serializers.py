"""What the endpoints of backends take and give. No key ever leaves by them."""

from typing import Any

from rest_framework import serializers

from registry.models import Version
from registry.rest import StrictInput, StrictInteger, StrictString

_KEY = "Sent as a bearer token, kept encrypted, never shown again."


class BackendRegister(StrictInput):
    id = StrictString(max_length=200, help_text="As clients will ask for it.")
    url = StrictString(help_text="What its paths follow, such as https://api.example.com/v1.")
    model = StrictString(max_length=200, help_text="How it is called there.")
    api_key = StrictString(required=False, allow_blank=True, trim_whitespace=False, help_text=_KEY)
    version = StrictString(required=False, help_text="Semantic version; 1.0.0 if absent.")
    display_name = StrictString(required=False, allow_blank=True, max_length=200)
    capabilities = serializers.ListField(
        child=StrictString(max_length=64),
        max_length=32,
        required=False,
        help_text="All that it can do; chat, completion and tools if absent.",
    )
    context_length = StrictInteger(required=False, min_value=1, max_value=2**31 - 1, help_text="Tokens.")


class BackendKey(StrictInput):
    api_key = StrictString(allow_blank=True, trim_whitespace=False, help_text=f"{_KEY} Empty: none is sent.")


class BackendOut(serializers.Serializer[Any]):
    model = serializers.CharField(source="version.model.name")
    version = serializers.CharField(source="version.number")
    url = serializers.CharField()
    backend_model = serializers.CharField(source="model", help_text="How it is called there.")
    has_key = serializers.BooleanField()
    keyed_at = serializers.DateTimeField(help_text="When its key was set.")
    capabilities = serializers.ListField(child=serializers.CharField(), source="version.capabilities")
    context_length = serializers.IntegerField(source="version.context_length", allow_null=True)
    health_status = serializers.ChoiceField(choices=Version.HealthStatus.choices, source="version.health")
    health_reason = serializers.CharField(allow_blank=True, source="version.health_reason")
    health_checked_at = serializers.DateTimeField(allow_null=True, source="version.health_checked_at")
