"""Which processes an installation is made of, and their commands: from the environment alone."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping

from nopenai_site.environment import PROJECT_ROOT, Environment
from nopenai_site.up import lines, postgres, redis
from nopenai_site.up.child import ChildSpec
from nopenai_site.up.readiness import accepts, answers

CORE_SETTINGS = "nopenai_site.settings_core"
FULL_SETTINGS = "nopenai_site.settings"


class Plan:
    """The children of one installation. ``lock`` is a descriptor that all of them hold while they live."""

    def __init__(self, environment: Environment, *, lock: int) -> None:
        self._environment = environment
        self._lock = lock

    def postgres(self, server: postgres.Postgres) -> ChildSpec:
        return ChildSpec(
            name="postgres",
            command=server.command(),
            environment=postgres.SERVER_ENVIRONMENT,
            account=server.account,
            pass_fds=(self._lock,),
            # SIGINT is a fast shutdown: sessions are ended, everything is written. SIGQUIT leaves it to recovery.
            death_signal=signal.SIGINT,
            stop=((signal.SIGINT, 30.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)),
            wrap=lines.postgres,
            ready=_asynchronous(server.ready),
        )

    def redis(self, server: redis.Redis) -> ChildSpec:
        return ChildSpec(
            name="redis",
            command=server.command(),
            environment=postgres.SERVER_ENVIRONMENT,
            account=server.account,
            pass_fds=(self._lock,),
            death_signal=signal.SIGTERM,
            wrap=lines.redis,
            ready=_asynchronous(server.ready),
        )

    def prepare(self, report: int) -> ChildSpec:
        """Migrations and the first administrator; ``report`` is the pipe it answers through."""
        return self._ours(
            "prepare", FULL_SETTINGS, "manage.py", "prepare", "--report-fd", str(report), pass_fds=(report,)
        )

    def supervisor(self) -> ChildSpec:
        return self._ours(
            "supervisor", CORE_SETTINGS, "manage.py", "supervisor", ready=accepts(self._environment.supervisor_socket)
        )

    def door(self) -> ChildSpec:
        """Where other nodes are to reach this one."""
        return self._ours("door", CORE_SETTINGS, "manage.py", "door")

    def gateway(self, listening: int, url: str) -> ChildSpec:
        return self._ours(
            "gateway",
            CORE_SETTINGS,
            *("-m", "gunicorn", "--config", "python:nopenai_site.gunicorn_gateway", "--bind", f"fd://{listening}"),
            pass_fds=(listening,),
            ready=answers(f"{url}/health/ready"),
        )

    def web(self) -> ChildSpec:
        return self._ours(
            "web",
            FULL_SETTINGS,
            *("-m", "gunicorn", "--config", "python:nopenai_site.gunicorn_web"),
            niceness=5,
            ready=accepts(self._environment.web_socket),
        )

    def celery_worker(self) -> ChildSpec:
        """One process: the tasks are short, and most of what they do is to wait for the database. Two threads: hashing
        takes as long as a file is large, and models' health is checked meanwhile."""
        return self._ours(
            "celery",
            CORE_SETTINGS,
            *("-m", "celery", "--app", "nopenai_site.celery", "--quiet", "worker"),
            *("--pool", "threads", "--concurrency", "2"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", self._celery_level()),
            niceness=10,
            wrap=lines.celery,
        )

    def celery_beat(self) -> ChildSpec:
        return self._ours(
            "beat",
            CORE_SETTINGS,
            *("-m", "celery", "--app", "nopenai_site.celery", "--quiet", "beat"),
            *("--schedule", str(self._environment.data_dir / "celerybeat-schedule"), "--pidfile", ""),
            *("--loglevel", self._celery_level()),
            niceness=10,
        )

    def _ours(
        self,
        name: str,
        settings: str,
        *arguments: str,
        niceness: int = 0,
        pass_fds: tuple[int, ...] = (),
        wrap: lines.Wrap = lines.plain,
        ready: Callable[[], Awaitable[bool]] | None = None,
    ) -> ChildSpec:
        return ChildSpec(
            name=name,
            command=(sys.executable, *arguments),
            environment=child_environment(os.environ, self._environment, settings),
            directory=PROJECT_ROOT,
            niceness=niceness,
            pass_fds=(self._lock, *pass_fds),
            wrap=wrap,
            ready=ready,
        )

    def _celery_level(self) -> str:
        return {"WARN": "WARNING", "FATAL": "CRITICAL"}.get(self._environment.log_level, self._environment.log_level)


def child_environment(inherited: Mapping[str, str], environment: Environment, settings: str) -> dict[str, str]:
    """What our own processes find in theirs: the operator's, and what we decided for all of them."""
    return {
        **inherited,
        "DJANGO_SETTINGS_MODULE": settings,
        # Measured anew by each process, "what is available" would differ from what the start report says.
        "NOPENAI_NODE_RAM_MB": str(environment.node_ram_mb),
        # Each thread's own malloc arena is memory that an installation at rest does not need.
        "MALLOC_ARENA_MAX": inherited.get("MALLOC_ARENA_MAX", "2"),
        "PYTHONUNBUFFERED": "1",
    }


def _asynchronous(check: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        await asyncio.sleep(0)
        return check()

    return ready
