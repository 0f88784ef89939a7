"""Warm hours as operators set them. Imported by :mod:`registry.models`."""

from zoneinfo import available_timezones

from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone

from registry.schedules.windows import WarmHours, problem


def validate_cron(expression: str) -> None:
    if reason := problem(expression):
        raise ValidationError(reason)


def validate_time_zone(name: str) -> None:
    if name not in available_timezones():
        raise ValidationError(f"'{name}' is no time zone; one is called like Europe/Berlin or UTC.")


class WarmSchedule(models.Model):
    """When a model is kept loaded. Outside of its hours it is on demand."""

    model = models.ForeignKey("registry.Model", on_delete=models.CASCADE, related_name="schedules")
    version = models.ForeignKey(
        "registry.Version",
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="schedules",
        help_text="Empty: whichever is promoted.",
    )
    opens = models.CharField(
        max_length=100, validators=[validate_cron], help_text="Cron: when it is to be loaded, as in 0 8 * * mon-fri"
    )
    closes = models.CharField(
        max_length=100, validators=[validate_cron], help_text="Cron: until when, as in 0 18 * * mon-fri"
    )
    time_zone = models.CharField(
        max_length=64, default="UTC", validators=[validate_time_zone], help_text="Whose clock that is: Europe/Berlin"
    )
    open_since = models.DateTimeField(
        null=True, editable=False, help_text="When the hours began that last now; empty outside of them."
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["model", "pk"]

    def __str__(self) -> str:
        return f"{self.model}: {self.opens} to {self.closes} ({self.time_zone})"

    @property
    def hours(self) -> WarmHours:
        return WarmHours(opens=self.opens, closes=self.closes, time_zone=self.time_zone)
