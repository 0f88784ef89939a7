"""The tables of who may and how much: tenants, their API keys and partitions of the KV cache; limits and what of them
is leased."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Length
from django.db.models.lookups import Exact
from django.utils import timezone

from quotas.callers import PARTITION_PATTERN, Role
from quotas.ledger import Unit
from quotas.sealing import SEALED_BYTES
from quotas.windows import Period

_ROLES = [(role.value, role.value.capitalize()) for role in Role]


class Tenant(models.Model):
    """Who a key belongs to. Cache partitions, limits and usage hang on tenants."""

    name = models.CharField(max_length=100, unique=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["name"]

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


class ApiKey(models.Model):
    """A secret that authenticates requests. Only its SHA-256 is stored: 256 random bits need no slow hash."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=100, blank=True, help_text="What it is for.")
    prefix = models.CharField(max_length=16, editable=False, help_text="How the key begins, to recognise it by.")
    digest = models.CharField(max_length=64, unique=True, editable=False)
    role = models.CharField(max_length=16, choices=_ROLES, default=Role.INFERENCE.value)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = "API key"
        ordering = ["tenant", "name", "id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(role__in=[role.value for role in Role]), name="quotas_apikey_role_known"
            ),
            models.CheckConstraint(condition=Q(digest__regex=r"^[0-9a-f]{64}$"), name="quotas_apikey_digest_form"),
        ]

    def __str__(self) -> str:
        return f"{self.prefix}… ({self.tenant})"


class QuotaRevision(models.Model):
    """Limits of a model that were in force; those with its highest number are. Rows never change (trigger)."""

    model = models.ForeignKey("registry.Model", on_delete=models.CASCADE, related_name="quota_revisions")
    number = models.PositiveIntegerField()
    quota = models.JSONField(help_text="As quotas.limits.ModelQuota.")
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
    taken = models.BigIntegerField(default=0, help_text="Leased, and not given back. Never above the limit.")

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
