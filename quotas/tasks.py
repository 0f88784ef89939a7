"""The quotas' work for Celery: each task calls one service."""

from celery import shared_task
from django.conf import settings
from django.utils import timezone

from quotas.usage import retention


@shared_task(name="quotas.usage_roll_up")  # type: ignore[untyped-decorator]
def usage_roll_up() -> None:
    """Old hours to days, old days to months."""
    retention.usage_roll_up(now=timezone.now(), zone=settings.TIME_ZONE)


@shared_task(name="quotas.windows_prune")  # type: ignore[untyped-decorator]
def windows_prune() -> None:
    """Windows of limits that are long over."""
    retention.windows_prune(now=timezone.now())


@shared_task(name="quotas.gateways_prune")  # type: ignore[untyped-decorator]
def gateways_prune() -> None:
    """Gateways that have ended long ago."""
    retention.gateways_prune(now=timezone.now())
