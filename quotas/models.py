"""The tables of who may: tenants, their API keys, and the partitions of the KV cache that are theirs."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Length
from django.db.models.lookups import Exact
from django.utils import timezone

from quotas.callers import PARTITION_PATTERN, Role
from quotas.sealing import SEALED_BYTES

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
