"""The tables of the KV cache's control plane. Writes go through :mod:`registry.cache.services`."""

from django.db import models
from django.db.models import F, Q
from django.utils import timezone


class CacheRevision(models.Model):
    """A configuration that was in force; the one with the highest number is. Rows never change (trigger)."""

    number = models.PositiveIntegerField(primary_key=True)
    config = models.JSONField(help_text="As registry.cache.configuration.CacheAllocation.")
    author = models.CharField(max_length=200, blank=True)
    comment = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name = "cache revision"
        ordering = ["-number"]

    def __str__(self) -> str:
        return f"revision {self.number}"


class CacheShare(models.Model):
    """What a model is owed of a node's KV cache. Its supervisor reads it; a change is announced to it."""

    node = models.ForeignKey("registry.Node", on_delete=models.CASCADE, related_name="cache_shares")
    model = models.ForeignKey("registry.Model", on_delete=models.CASCADE, related_name="cache_shares")
    ram_bytes = models.BigIntegerField()
    ssd_bytes = models.BigIntegerField()
    why = models.TextField(blank=True)
    computed_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["node", "model__name"]
        constraints = [
            models.UniqueConstraint(fields=["node", "model"], name="registry_cacheshare_once"),
            models.CheckConstraint(condition=Q(ram_bytes__gte=0, ssd_bytes__gte=0), name="registry_cacheshare_size"),
        ]

    def __str__(self) -> str:
        return f"{self.model} on {self.node}"


class CacheCeiling(models.Model):
    """What a model with limits of its own never gets more of on a node; empty: no such bound."""

    model = models.OneToOneField("registry.Model", on_delete=models.CASCADE, related_name="cache_ceiling")
    ram_bytes = models.BigIntegerField(null=True)
    ssd_bytes = models.BigIntegerField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(ram_bytes__gte=0, ssd_bytes__gte=0), name="registry_cacheceiling_size")
        ]

    def __str__(self) -> str:
        return str(self.model)


class CacheUse(models.Model):
    """What was asked of a model during five minutes, over all nodes. Kept for a little more than a day."""

    model = models.ForeignKey("registry.Model", on_delete=models.CASCADE, related_name="cache_use")
    bucket = models.DateTimeField(help_text="Its beginning: every five minutes, on the clock.")
    prompt_tokens = models.BigIntegerField(default=0)
    cached_tokens = models.BigIntegerField(default=0, help_text="Prompt tokens that were not computed.")
    requests = models.BigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["model", "bucket"], name="registry_cacheuse_once"),
            models.CheckConstraint(
                condition=Q(prompt_tokens__gte=F("cached_tokens"), cached_tokens__gte=0, requests__gte=0),
                name="registry_cacheuse_counts",
            ),
        ]
        indexes = [models.Index(fields=["bucket"], name="registry_cacheuse_bucket")]

    def __str__(self) -> str:
        return f"{self.model} at {self.bucket:%Y-%m-%d %H:%M}"


class SharedPrompt(models.Model):
    """A system prompt whose cached blocks all tenants may share, because it holds nothing of any of them."""

    name = models.CharField(max_length=100, unique=True)
    text = models.TextField(help_text="A request shares it when its first message is a system message of this text.")
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(condition=~Q(name="") & ~Q(text=""), name="registry_sharedprompt_says_something")
        ]

    def __str__(self) -> str:
        return self.name
