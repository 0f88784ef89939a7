"""What the endpoints of health take and give."""

from datetime import UTC, datetime
from typing import Any

from rest_framework import serializers

from registry.health.report import Check, CheckName, Result
from registry.health.selectors import ModelHealth
from registry.models import Version
from registry.rest import StrictInput, StrictString


class CheckInput(StrictInput):
    model_id = StrictString(required=False, help_text="All models if absent.")


class CheckOut(serializers.Serializer[Check]):
    name = serializers.ChoiceField(choices=[(each.value, each.value) for each in CheckName])
    result = serializers.ChoiceField(choices=[(each.value, each.value) for each in Result])
    reason = serializers.CharField(allow_blank=True)
    checked_at = serializers.SerializerMethodField()

    def get_checked_at(self, check: Check) -> datetime | None:
        return datetime.fromtimestamp(check.checked_at, UTC) if check.checked_at else None


class ModelHealthOut(serializers.Serializer[ModelHealth]):
    model_id = serializers.CharField()
    version = serializers.CharField(allow_null=True, help_text="The one that the bare id means.")
    health_status = serializers.ChoiceField(choices=Version.HealthStatus.choices)
    reason = serializers.CharField(allow_blank=True)
    checks = CheckOut(many=True)


class CheckedOut(serializers.Serializer[Any]):
    models = ModelHealthOut(many=True)


class TransitionOut(serializers.Serializer[Any]):
    version = serializers.CharField(source="version.number")
    before = serializers.CharField(help_text="As health_status.")
    after = serializers.CharField()
    reason = serializers.CharField(allow_blank=True)
    at = serializers.DateTimeField()


class HistoryOut(ModelHealthOut):
    history = TransitionOut(many=True, help_text="Of all its versions, the newest 100 first.")
