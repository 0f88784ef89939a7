"""The tables of who may and how much: tenants, their API keys and partitions of the KV cache; limits and what of them
is leased."""

import uuid
from functools import reduce
from operator import and_

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.db.models.functions import Length
from django.db.models.lookups import Exact
from django.utils import timezone

from quotas.caller_limits import HIGHEST_LIMIT, HIGHEST_WEIGHT, LOWEST_WEIGHT
from quotas.callers import DEFAULT_PRIORITY, HIGHEST_PRIORITY, PARTITION_PATTERN, Role
from quotas.ledger import Unit
from quotas.sealing import SEALED_BYTES
from quotas.usage.models import GatewayLife, Usage
from quotas.windows import Period
from registry.models import Model

__all__ = [
    "ApiKey",
    "Emergency",
    "GatewayLife",
    "KeyUse",
    "Lease",
    "LimitedModel",
    "Partition",
    "QuotaRevision",
    "Tenant",
    "Usage",
    "Window",
]

_ROLES = [(role.value, role.value.capitalize()) for role in Role]


def _limit(help_text: str) -> "models.BigIntegerField[int | None, int | None]":
    return models.BigIntegerField(
        null=True, blank=True, validators=[MinValueValidator(0), MaxValueValidator(HIGHEST_LIMIT)], help_text=help_text
    )


class LimitedCaller(models.Model):
    """What callers are held to, each key by itself and all keys of a tenant together. None: no such limit."""

    requests_per_minute = _limit("From minute to minute. Empty: no limit.")
    requests_per_hour = _limit("From hour to hour.")
    requests_per_day = _limit("From midnight to midnight (NOPENAI_TIME_ZONE).")
    requests_per_month = _limit("From the first of a month on.")
    tokens_per_minute = _limit("Of prompts and answers together. Empty: no limit.")
    tokens_per_hour = _limit("From hour to hour.")
    tokens_per_day = _limit("From midnight to midnight.")
    tokens_per_month = _limit("From the first of a month on.")
    max_concurrent_requests = _limit("At the same time, over all gateways of a node.")

    class Meta:
        abstract = True


def _limits_in_range(table: str) -> models.CheckConstraint:
    ranges = {f"{field.name}__range": (0, HIGHEST_LIMIT) for field in LimitedCaller._meta.local_fields}
    return models.CheckConstraint(
        condition=reduce(and_, (Q(**{name: value}) for name, value in sorted(ranges.items()))),
        name=f"quotas_{table}_limits",
    )


class Tenant(LimitedCaller):
    """Who a key belongs to. Cache partitions, limits and usage hang on tenants."""

    name = models.CharField(max_length=100, unique=True)
    weight = models.FloatField(
        default=1.0,
        validators=[MinValueValidator(LOWEST_WEIGHT), MaxValueValidator(HIGHEST_WEIGHT)],
        help_text="Its share where tenants take turns: one of 2 gets twice as much as one of 1.",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["name"]
        constraints = [
            _limits_in_range("tenant"),
            models.CheckConstraint(
                condition=Q(weight__range=(LOWEST_WEIGHT, HIGHEST_WEIGHT)), name="quotas_tenant_weight"
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Partition(models.Model):
    """A part of the KV cache that only its tenant's requests see; the one without a tenant holds declared prompts.

    Erasing it is giving it another name and key: what was written under the old ones is then unreachable everywhere
    and, on disk, unreadable.
    """

    tenant = models.OneToOneField(
        Tenant, null=True, editable=False, on_delete=models.CASCADE, related_name="cache_partition"
    )
    name = models.CharField(max_length=32, unique=True, editable=False)
    sealed_key = models.BinaryField(editable=False, help_text="See quotas.sealing.")
    keyed_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [
            # NULL counts as a value: there is one shared partition.
            models.UniqueConstraint(fields=["tenant"], nulls_distinct=False, name="quotas_partition_one_each"),
            models.CheckConstraint(condition=Q(name__regex=PARTITION_PATTERN), name="quotas_partition_name_form"),
            models.CheckConstraint(
                condition=Exact(Length("sealed_key"), SEALED_BYTES), name="quotas_partition_key_sealed"
            ),
        ]

    def __str__(self) -> str:
        return self.name


class ApiKey(LimitedCaller):
    """A secret that authenticates requests. Only its SHA-256 is stored: 256 random bits need no slow hash."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=100, blank=True, help_text="What it is for.")
    prefix = models.CharField(max_length=16, editable=False, help_text="How the key begins, to recognise it by.")
    digest = models.CharField(max_length=64, unique=True, editable=False)
    role = models.CharField(max_length=16, choices=_ROLES, default=Role.INFERENCE.value)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Empty: it is valid without end.")
    revoked_at = models.DateTimeField(null=True, blank=True)
    max_priority = models.PositiveSmallIntegerField(
        default=DEFAULT_PRIORITY,
        validators=[MaxValueValidator(HIGHEST_PRIORITY)],
        help_text=f"0–{HIGHEST_PRIORITY}: what its requests ask for beyond is cut to this.",
    )
    allowed_models = models.JSONField(null=True, blank=True, help_text="Ids of models. Null: all.")
    allowed_routes = models.JSONField(null=True, blank=True, help_text="Names of routes, such as auto. Null: all.")
    line = models.UUIDField(
        default=uuid.uuid4, editable=False, help_text="A rotated key has that of the one before: they share limits."
    )
    rotated_from = models.ForeignKey(
        "self", null=True, editable=False, on_delete=models.SET_NULL, related_name="rotated_to"
    )

    class Meta:
        verbose_name = "API key"
        ordering = ["tenant", "name", "id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(role__in=[role.value for role in Role]), name="quotas_apikey_role_known"
            ),
            models.CheckConstraint(condition=Q(digest__regex=r"^[0-9a-f]{64}$"), name="quotas_apikey_digest_form"),
            _limits_in_range("apikey"),
            models.CheckConstraint(
                condition=Q(max_priority__range=(0, HIGHEST_PRIORITY)), name="quotas_apikey_priority"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.prefix}… ({self.tenant})"


class KeyUse(models.Model):
    """When a key was used last. Beside the key, whose changes gateways are told of."""

    key = models.OneToOneField(ApiKey, primary_key=True, on_delete=models.CASCADE, related_name="use")
    used_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.key_id} @ {self.used_at:%Y-%m-%d %H:%M}"


class Emergency(models.Model):
    """Somebody declared an emergency, or ended it; the newest row counts."""

    enabled = models.BooleanField()
    reason = models.CharField(max_length=500, blank=True)
    author = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "emergencies"

    def __str__(self) -> str:
        return f"{'declared' if self.enabled else 'ended'} {self.created_at:%Y-%m-%d %H:%M}"


class LimitedModel(Model):
    """A model, as the page of limits has it."""

    class Meta:
        proxy = True
        verbose_name = "model's limits"
        verbose_name_plural = "limits"


class QuotaRevision(models.Model):
    """Limits of a model that were in force; those with its highest number are. Rows never change (trigger)."""

    model = models.ForeignKey("registry.Model", on_delete=models.CASCADE, related_name="quota_revisions")
    number = models.PositiveIntegerField()
    quota = models.JSONField(
        null=True, help_text="As quotas.limits.ModelQuota; null: it gave up its own, and has the default ones."
    )
    author = models.CharField(max_length=200, blank=True)
    comment = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["model", "-number"]
        constraints = [models.UniqueConstraint(fields=["model", "number"], name="quotas_quotarevision_once")]

    def __str__(self) -> str:
        return f"{self.model}, revision {self.number}"


class Window(models.Model):
    """What is leased of an account in one window. Gateways lease and give back by :mod:`quotas.treasury`."""

    account = models.CharField(max_length=100, help_text="As quotas.ledger.Account.key.")
    unit = models.CharField(max_length=10, choices=[(unit.value, unit.value) for unit in Unit])
    period = models.CharField(max_length=10, choices=[(period.value, period.value) for period in Period])
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    taken = models.BigIntegerField(
        default=0, help_text="Leased, and not given back: no lease brings it above the limit."
    )
    earlier = models.BigIntegerField(
        default=0, help_text="Of that, used before the first limit was set, or by leases that are closed."
    )
    level = models.SmallIntegerField(default=0, help_text="The highest quotas.modes.Level that was told.")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account", "starts_at"], name="quotas_window_once"),
            models.CheckConstraint(condition=Q(taken__gte=0), name="quotas_window_taken"),
        ]
        indexes = [models.Index(fields=["ends_at"], name="quotas_window_end")]

    def __str__(self) -> str:
        return f"{self.account} @ {self.starts_at:%Y-%m-%d %H:%M}"


class Lease(models.Model):
    """What one gateway process holds of a window, and what it last said of it."""

    window = models.ForeignKey(Window, on_delete=models.CASCADE, related_name="leases")
    gateway = models.CharField(max_length=32, help_text="Of one process's life.")
    granted = models.BigIntegerField(default=0)
    spent = models.BigIntegerField(default=0, help_text="Real counts of requests that are over.")
    reserved = models.BigIntegerField(default=0, help_text="Promised to requests that run.")
    told_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["gateway", "window"], name="quotas_lease_once"),
            models.CheckConstraint(
                condition=Q(granted__gte=0, spent__gte=0, reserved__gte=0), name="quotas_lease_counts"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.gateway}: {self.granted}"
