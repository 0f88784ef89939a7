"""``manage.py supervisor``: one node's supervisor, until SIGTERM or SIGINT.

``manage.py`` calls :func:`main` without Django's command line: it starts in half the time, and under settings that have
no apps of the web process.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import django
import structlog
from django.conf import settings
from django.core.management.base import BaseCommand

from nopenai_site import logs
from nopenai_site.environment import PROJECT_ROOT, Environment
from nopenai_site.secret_key import secret_key_make

if TYPE_CHECKING:
    from inference.supervisor.supervisor import Settings

log = structlog.get_logger(module="supervisor")

ENGINE = sys.executable, "-m", "inference.engine"


class Command(BaseCommand):
    help = "Run this node's supervisor: it loads and unloads models and discovers new ones."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> NoReturn:
        serve()


def main() -> NoReturn:
    django.setup()
    serve()


def serve(adapt: "Callable[[Settings], Settings]" = lambda settings: settings) -> NoReturn:
    """Supervise until told to stop. ``adapt`` is for tests, which bring other workers and shorter times."""
    environment: Environment = settings.NOPENAI
    logs.configure(environment.log_level, module="supervisor")
    secret_key_make(environment.data_dir)
    asyncio.run(_run_and_exit(adapt(_settings(environment)), environment))
    raise AssertionError("the line above does not return")


async def _run_and_exit(chosen: "Settings", environment: Environment) -> NoReturn:
    """Whatever a thread still waits for, a frozen database or a dead network drive, the process ends."""
    status = await _run(chosen, environment)
    sys.stderr.flush()
    os._exit(status)


async def _run(chosen: "Settings", environment: Environment) -> int:
    # Not at the top: they import models, which need Django to be set up.
    from inference.supervisor.server import AlreadyRunning, Claim
    from inference.supervisor.store import NodeTaken
    from inference.supervisor.supervisor import Supervisor

    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    try:
        claim = Claim(environment.supervisor_socket)
        await Supervisor(chosen, claim).run(stopping)
    except (AlreadyRunning, NodeTaken) as fault:
        log.critical(str(fault))
        return 1
    return 0


def _settings(environment: Environment) -> "Settings":
    from inference.supervisor.environment import worker_environment
    from inference.supervisor.launching import Launch
    from inference.supervisor.replica import Policy
    from inference.supervisor.store import NodeIdentity
    from inference.supervisor.supervisor import Settings

    return Settings(
        node=NodeIdentity(
            name=environment.node_name,
            ram_budget_mb=environment.node_ram_mb,
            address=str(environment.node_address or ""),
        ),
        database_url=settings.DATABASE_URL,
        models_dirs=environment.models_dirs,
        starter_model=environment.starter_model,
        cache_dir=environment.data_dir / "kv",
        launch=Launch(
            command=ENGINE,
            spare=(*ENGINE, "--spare") if environment.spare_worker else (),
            directory=PROJECT_ROOT,
            environment=worker_environment(os.environ),
            log_level=environment.log_level,
            forward=_forward,
        ),
        policy=Policy(idle_unload=float(environment.idle_unload_sec)),
    )


def _forward(line: bytes) -> None:
    sys.stderr.buffer.write(line + b"\n")
    sys.stderr.buffer.flush()
