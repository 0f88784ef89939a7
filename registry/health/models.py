"""The tables of health. Writes go through :mod:`registry.health.services`, but for the history, which a trigger writes
(migration ``0007``): whoever changes a version's health, it is there."""

from django.db import models
from django.utils import timezone


class ReplicaVitals(models.Model):
    """What its supervisor tells of a replica. Apart from it, so that telling announces no change."""

    replica = models.OneToOneField(
        "registry.Replica", primary_key=True, on_delete=models.CASCADE, related_name="vitals"
    )
    vitals = models.JSONField(help_text="As registry.health.vitals.Vitals.")
    told_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return str(self.replica)


class VersionHealth(models.Model):
    """The last check of a version that is deployed, or was a moment ago. Each check replaces it."""

    version = models.OneToOneField(
        "registry.Version", primary_key=True, on_delete=models.CASCADE, related_name="checked_health"
    )
    checks = models.JSONField(default=list, help_text="As registry.health.report.Check, each.")
    standing = models.JSONField(default=dict, help_text="As registry.health.judgement.Standing.")

    def __str__(self) -> str:
        return str(self.version)


class HealthSweep(models.Model):
    """When everything was checked last: one row."""

    finished_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.finished_at:%Y-%m-%d %H:%M:%S}"


class HealthTransition(models.Model):
    """A version's health has changed, or what is the matter with its file."""

    version = models.ForeignKey("registry.Version", on_delete=models.CASCADE, related_name="health_history")
    before = models.CharField(max_length=16)
    after = models.CharField(max_length=16)
    reason = models.TextField(blank=True)
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name = "health transition"
        ordering = ["-at", "-id"]
        indexes = [
            models.Index(fields=["version", "-at"], name="registry_health_of_version"),
            models.Index(fields=["at"], name="registry_health_at"),
        ]

    def __str__(self) -> str:
        return f"{self.version}: {self.before} → {self.after}"
