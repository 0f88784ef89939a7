"""Warm hours as JSON."""

from typing import Any

from rest_framework import serializers

from registry.models import WarmSchedule
from registry.rest import StrictInput, StrictString
from registry.schedules.models import validate_cron, validate_time_zone


class ScheduleIn(StrictInput):
    opens = StrictString(max_length=100, validators=[validate_cron], help_text="Cron: when the model is to be loaded.")
    closes = StrictString(max_length=100, validators=[validate_cron], help_text="Cron: until when.")
    time_zone = StrictString(
        max_length=64, default="UTC", validators=[validate_time_zone], help_text="Whose clock that is."
    )
    version = StrictString(
        required=False, allow_null=True, default=None, help_text="Its number; null: whichever is promoted."
    )


class ScheduleOut(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    model = serializers.CharField(source="model.name")
    version = serializers.SerializerMethodField(help_text="Null: whichever is promoted.")
    opens = serializers.CharField()
    closes = serializers.CharField()
    time_zone = serializers.CharField()
    open_since = serializers.DateTimeField(allow_null=True, help_text="When the hours began that last now.")

    def get_version(self, schedule: WarmSchedule) -> str | None:
        return None if schedule.version is None else schedule.version.number
