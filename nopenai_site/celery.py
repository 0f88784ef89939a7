"""Celery: maintenance that runs once in the whole installation, now and then.

Tasks are thin, idempotent and keep no results: one that is lost is done by the next beat. That is why they expire
instead of piling up while no worker runs.
"""

import logging
import os
import warnings
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from celery import Celery
from celery.platforms import SecurityWarning
from celery.schedules import crontab
from celery.signals import beat_init, setup_logging, worker_init
from django.conf import settings

from nopenai_site import logs, traces

# Of pickled messages, which root should not take; ours are JSON.
warnings.simplefilter("ignore", SecurityWarning)
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "nopenai_site.settings_core")


def broker_url(redis_url: str) -> str:
    """Kombu's spelling of what redis-py calls ``unix://[[user]:password@]/path[?db=0]``; other URLs are the same."""
    url = urlsplit(redis_url)
    if url.scheme != "unix":
        return redis_url
    query = parse_qs(url.query)
    database = query.get("db", ["0"])[0]
    return f"redis+socket://{url.netloc}{url.path}?{urlencode({'virtual_host': database})}"


BEAT_SCHEDULE = {
    # The supervisors watch the models directories; this finds what no file system tells, as on network mounts.
    "scan the models directories": {"task": "registry.scan", "schedule": 60.0, "options": {"expires": 55}},
    "hash new and modified models": {"task": "registry.hash", "schedule": 60.0, "options": {"expires": 55}},
    "check the health of models": {"task": "registry.health_check", "schedule": 30.0, "options": {"expires": 25}},
    "check the backends elsewhere": {"task": "registry.backends_check", "schedule": 30.0, "options": {"expires": 25}},
    "see which nodes are away": {"task": "registry.nodes_expire", "schedule": 15.0, "options": {"expires": 12}},
    "look which warm hours last": {
        "task": "registry.schedules_evaluate",
        "schedule": crontab(),  # as each minute begins
        "options": {"expires": 55},
    },
    "divide the cache by use": {"task": "registry.cache_rebalance", "schedule": 60.0, "options": {"expires": 55}},
    "forget old transitions of health": {
        "task": "registry.health_prune",
        "schedule": 3600.0,
        "options": {"expires": 3500},
    },
    "add up old usage": {"task": "quotas.usage_roll_up", "schedule": 3600.0, "options": {"expires": 3500}},
    "forget old windows of limits": {"task": "quotas.windows_prune", "schedule": 3600.0, "options": {"expires": 3500}},
    "forget old gateways": {"task": "quotas.gateways_prune", "schedule": 3600.0, "options": {"expires": 3500}},
}

app = Celery("nopenai")
app.conf.update(
    broker_url=broker_url(settings.REDIS_URL),
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    task_default_queue="nopenai",
    task_serializer="json",
    accept_content=["json"],
    task_ignore_result=True,
    result_expires=None,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_soft_time_limit=840,
    task_time_limit=900,
    worker_prefetch_multiplier=1,
    worker_cancel_long_running_tasks_on_connection_loss=True,
    worker_enable_remote_control=False,
    worker_hijack_root_logger=False,
    timezone=settings.TIME_ZONE,
    beat_scheduler="nopenai_site.beat:ElectedScheduler",
    beat_schedule_filename=str(settings.NOPENAI.data_dir / "celerybeat-schedule"),
    beat_max_loop_interval=5,
    beat_schedule=BEAT_SCHEDULE,
)
app.autodiscover_tasks(["registry", "quotas"])


@setup_logging.connect(weak=False)  # type: ignore[untyped-decorator]
def _configure_logging(**_: Any) -> None:
    """In Celery's place, which would format lines of its own."""
    logs.configure(settings.NOPENAI.log_level)
    # That a task came and went, every minute, is of interest to whoever looks for a fault.
    if settings.NOPENAI.log_level != "DEBUG":
        for name in ("celery.worker.strategy", "celery.app.trace"):
            logging.getLogger(name).setLevel(logging.WARNING)


@worker_init.connect(weak=False)  # type: ignore[untyped-decorator]
@beat_init.connect(weak=False)  # type: ignore[untyped-decorator]
def _trace(**_: Any) -> None:
    """The worker's pool is its own process, so nothing is forked after this."""
    traces.instrument_celery()
    traces.start("celery")
