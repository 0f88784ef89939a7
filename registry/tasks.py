"""The registry's work for Celery: each task calls one service."""

from celery import shared_task
from django.conf import settings

from registry import services
from registry.backends import services as backends
from registry.cache import services as cache
from registry.health import services as health
from registry.nodes import services as nodes
from registry.schedules import services as schedules


@shared_task(name="registry.scan")  # type: ignore[untyped-decorator]
def scan() -> None:
    """Look through the models directories; what is new is hashed right after."""
    report = services.models_scan(
        models_dirs=settings.NOPENAI.models_dirs, starter_model=settings.NOPENAI.starter_model
    )
    if report.discovered or report.versions:
        hash_versions.delay()


@shared_task(name="registry.hash")  # type: ignore[untyped-decorator]
def hash_versions() -> None:
    """SHA-256 of what lacks it. Bounded, so that scans are not kept waiting; the next beat goes on."""
    services.versions_hash()


@shared_task(name="registry.health_check")  # type: ignore[untyped-decorator]
def health_check() -> None:
    """How what is deployed is doing, and whether the files of the rest are there."""
    health.health_check(models_dirs=settings.NOPENAI.models_dirs, starter_model=settings.NOPENAI.starter_model)


@shared_task(name="registry.health_prune")  # type: ignore[untyped-decorator]
def health_prune() -> None:
    """Transitions of long ago."""
    health.history_prune()


@shared_task(name="registry.cache_rebalance")  # type: ignore[untyped-decorator]
def cache_rebalance() -> None:
    """Divide the KV cache by what was asked lately, and forget what was asked too long ago."""
    cache.cache_rebalance()
    cache.cache_use_prune()


@shared_task(name="registry.nodes_expire")  # type: ignore[untyped-decorator]
def nodes_expire() -> None:
    """What ran on nodes that were not heard of any more."""
    nodes.nodes_expire()


@shared_task(name="registry.schedules_evaluate")  # type: ignore[untyped-decorator]
def schedules_evaluate() -> None:
    """Which warm hours last."""
    schedules.schedules_evaluate()


@shared_task(name="registry.backends_check")  # type: ignore[untyped-decorator]
def check_backends() -> None:
    """How the backends elsewhere are."""
    backends.backends_check()
