"""The tables of usage. Writes go through :mod:`quotas.usage.services`."""

from django.db import models
from django.db.models import Q
from django.utils import timezone

from quotas.windows import Period

KEPT_PERIODS = (Period.HOUR, Period.DAY, Period.MONTH)


class Usage(models.Model):
    """What the requests of a key to a model used in an hour; of long ago, in a day or a month.

    Tenants, keys and models are named, not referred to: what was used stays accountable when they are gone.
    """

    period = models.CharField(max_length=10, choices=[(each.value, each.value) for each in KEPT_PERIODS])
    starts_at = models.DateTimeField(verbose_name="from")
    tenant = models.CharField(max_length=100)
    api_key = models.BigIntegerField(null=True, help_text="Its number; none: without a key.")
    model = models.CharField(max_length=200)
    requests = models.BigIntegerField(default=0, help_text="Admitted, and over.")
    prompt_tokens = models.BigIntegerField(default=0)
    cached_tokens = models.BigIntegerField(default=0, help_text="Of the prompts' tokens: not computed.")
    completion_tokens = models.BigIntegerField(default=0)
    seconds = models.FloatField(default=0.0, help_text="From admission to end.")
    errors = models.BigIntegerField(default=0, help_text="Failed for a reason of the server's.")
    refused = models.BigIntegerField(default=0, help_text="Not let in by a limit.")

    class Meta:
        verbose_name = "usage record"
        ordering = ["-starts_at", "tenant", "model", "id"]
        constraints = [
            # NULL counts as a value: there is one row of requests without a key.
            models.UniqueConstraint(
                fields=["starts_at", "period", "tenant", "model", "api_key"],
                nulls_distinct=False,
                name="quotas_usage_once",
            ),
            models.CheckConstraint(
                condition=Q(period__in=[each.value for each in KEPT_PERIODS]), name="quotas_usage_period"
            ),
            models.CheckConstraint(
                condition=Q(
                    cached_tokens__gte=0,
                    completion_tokens__gte=0,
                    errors__gte=0,
                    prompt_tokens__gte=0,
                    refused__gte=0,
                    requests__gte=0,
                    seconds__gte=0,
                ),
                name="quotas_usage_counts",
            ),
        ]
        indexes = [
            models.Index(fields=["model", "starts_at"], name="quotas_usage_model"),
            models.Index(fields=["api_key", "starts_at"], name="quotas_usage_key"),
        ]

    def __str__(self) -> str:
        return f"{self.tenant}, {self.model}, {timezone.localtime(self.starts_at):%Y-%m-%d %H:%M}"


class GatewayLife(models.Model):
    """A gateway process that writes usage: which of its batches was written last, so that none is counted twice."""

    name = models.CharField(max_length=32, unique=True)
    batch = models.BigIntegerField(default=0)
    told_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return self.name
