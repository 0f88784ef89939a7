"""Examines an installation from outside and says what to do about each fault.

An examination is a function that yields findings; one that can't be made because of an earlier fault yields none.
"""

import asyncio
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor

from inference.memory import available_bytes
from nopenai_site.environment import Environment
from nopenai_site.up import listener, postgres
from nopenai_site.up import redis as embedded_redis
from nopenai_site.up.locks import running_pid
from nopenai_site.up.privileges import NoAccount
from nopenai_site.up.readiness import accepts, get
from quotas.access.selectors import UNOPENED, partitions_unopened
from registry.errors import first_line
from registry.models import Model, Version
from registry.presentation import promotion
from registry.starter import starter_path

OLDEST_POSTGRES = 150_000
LITTLE_DISK_MB = 1024


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the result. ``advice`` is set where something is to be done; without it, all is well."""

    subject: str
    text: str
    advice: str = ""


Examination = Callable[[Environment], Iterator[Finding]]


def examine(environment: Environment) -> Iterator[Finding]:
    """All findings, as they are made."""
    examinations: list[Examination] = [_directories, _engine, _embedded, _running]
    if _should_answer(environment):
        examinations += [_database, _broker, _processes]
    for examination in [*examinations, _models]:
        yield from examination(environment)


def _directories(environment: Environment) -> Iterator[Finding]:
    data_dir = environment.data_dir
    if not data_dir.exists():
        yield Finding("data directory", f"{data_dir} does not exist yet; the first start makes it")
        return
    if not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
        yield Finding("data directory", f"{data_dir} can't be written", "Set NOPENAI_DATA_DIR, or its owner, right")
        return
    if stat.S_IMODE(data_dir.stat().st_mode) & 0o077:
        yield Finding("data directory", f"others may look into {data_dir}", f"chmod 700 {data_dir}")
    free_mb = shutil.disk_usage(data_dir).free // (1024 * 1024)
    if free_mb < LITTLE_DISK_MB:
        yield Finding(
            "disk", f"only {free_mb} MB are free at {data_dir}", "Make room, or set NOPENAI_DATA_DIR elsewhere"
        )
    else:
        yield Finding("data directory", f"{data_dir}, {free_mb} MB free")


def _engine(environment: Environment) -> Iterator[Finding]:
    if find_spec("llama_cpp") is None:
        yield Finding("engine", "llama-cpp-python is not installed", "make run")
    else:
        yield Finding("engine", "llama-cpp-python is installed")
    available = available_bytes() >> 20
    if environment.sources.get("NOPENAI_NODE_RAM_MB") == "environment" and environment.node_ram_mb > available:
        yield Finding(
            "memory",
            f"models may take {environment.node_ram_mb} MB, but {available} MB are available now",
            f"Set NOPENAI_NODE_RAM_MB to {available * 8 // 10} or less, or end what takes the memory",
        )


def _embedded(environment: Environment) -> Iterator[Finding]:
    """The servers that ``up`` would start."""
    try:
        if environment.database_url is None:
            server = postgres.embedded(
                data_dir=environment.data_dir, socket_dir=environment.servers_dir, max_connections=1
            )
            runs_as = f", runs as {server.account.name}" if server.account else ""
            yield Finding("embedded PostgreSQL", f"{server.binaries}{runs_as}")
        if environment.redis_url is None:
            yield Finding("embedded Redis", str(embedded_redis.embedded(socket_dir=environment.servers_dir).binary))
    except (postgres.PostgresFault, embedded_redis.RedisFault, NoAccount) as fault:
        yield Finding("embedded servers", "can't be started", str(fault))


def _running(environment: Environment) -> Iterator[Finding]:
    pid = running_pid(environment.data_dir)
    if pid is not None:
        yield Finding("up", f"runs with pid {pid}")
    elif not _should_answer(environment):
        yield Finding(
            "up",
            f"no server runs with the data directory {environment.data_dir}, so there is less to examine",
            "Start it with `make run`. If it runs, give doctor its environment (NOPENAI_DATA_DIR), and run as its user",
        )


def _should_answer(environment: Environment) -> bool:
    """Under systemd or Kubernetes there is no ``up``, but then there are servers of the operator's own."""
    return running_pid(environment.data_dir) is not None or bool(environment.database_url and environment.redis_url)


def _database(environment: Environment) -> Iterator[Finding]:
    try:
        with connection.cursor() as cursor:
            cursor.execute("select current_setting('server_version_num')::int, current_setting('server_version')")
            number, name = cursor.fetchone() or (0, "")
        executor = MigrationExecutor(connection)
        missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError as fault:
        where = "DATABASE_URL" if environment.database_url else f"{environment.log_dir / 'server.log'}, module postgres"
        yield Finding("database", first_line(fault), f"Look at {where}")
        return
    if number < OLDEST_POSTGRES:
        yield Finding("database", f"PostgreSQL {name} is too old", "Move to PostgreSQL 15 or newer")
    else:
        yield Finding("database", f"PostgreSQL {name} answers")
    if missing:
        yield Finding(
            "migrations", f"{len(missing)} are not applied", "Restart it, or run: .venv/bin/python manage.py prepare"
        )
    else:
        yield Finding("migrations", "all are applied")
        yield from model_findings()
        yield from _caches_not_opened()


def model_findings() -> Iterator[Finding]:
    """A fault is what clients run into: an enabled model that can't answer under its bare id. The rest is history."""
    rows = Model.objects.filter(alias_of=None).select_related("promoted").prefetch_related("versions").order_by("name")
    for model in rows:
        versions = list(model.versions.all())
        shown = model.promoted or next(iter(versions), None)
        if shown is None or shown.health != Version.HealthStatus.UNHEALTHY:
            continue
        if model.enabled and not model.starter:
            yield Finding("model", f"{shown}: {shown.health_reason}", _advice(model, shown, versions))
        else:
            yield Finding("model", f"{shown} is not served: {shown.health_reason}")


def _advice(model: Model, shown: Version, versions: Sequence[Version]) -> str:
    """What to do about an enabled model whose version ``shown`` is unhealthy."""
    better = next((version for version in versions if version.servable), None)
    if better is not None:
        return f"Promote what is there: {promotion(model.name, better.number)}"
    if shown.source == Version.Source.REMOTE:
        return (
            f"See to the backend at {shown.path}, give it another key (… models set-key {model.name}), or forget it: "
            f".venv/bin/python manage.py models delete {model.name}"
        )
    forget = f".venv/bin/python manage.py models delete {model.name}"
    match shown.file_state:
        case Version.FileState.MISSING | Version.FileState.REPLACED:
            return f"Put {shown.path} back, or forget the model: {forget}"
        case Version.FileState.INCOMPLETE:
            return f"Wait until {shown.path} is copied; if nobody copies it, copy it again or remove it"
        case Version.FileState.CONFLICT:
            return f"Rename or remove {shown.path}"
        case Version.FileState.PRESENT:  # the checks of health have found it
            return f"Mend that; it is tried again by itself, or at once by POST /health/check of {model.name}"
        case _:
            return f"Replace {shown.path} by a sound GGUF, or remove it"


def _caches_not_opened() -> Iterator[Finding]:
    tenants = partitions_unopened()
    if tenants:
        yield Finding("cache", f"nothing is cached for {', '.join(tenants[:20])}: their keys can't be opened", UNOPENED)


def _broker(environment: Environment) -> Iterator[Finding]:
    try:
        with redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=5, socket_timeout=5) as broker:
            version = str(broker.info("server")["redis_version"])
    except redis.RedisError as fault:
        where = "REDIS_URL" if environment.redis_url else f"{environment.log_dir / 'server.log'}, module redis"
        yield Finding("broker", first_line(fault), f"Look at {where}")
        return
    if tuple(int(part) for part in version.split(".")[:2]) < embedded_redis.OLDEST:
        yield Finding("broker", f"Redis {version} is too old", "Move to Redis 6.2, Valkey 7.2 or newer")
    else:
        yield Finding("broker", f"Redis {version} answers")


def _processes(environment: Environment) -> Iterator[Finding]:
    log = f"Look at {environment.log_dir / 'server.log'}, module "
    for name, socket in (("supervisor", environment.supervisor_socket), ("web", environment.web_socket)):
        if asyncio.run(accepts(socket)()):
            yield Finding(name, f"accepts connections at {socket}")
        else:
            yield Finding(name, f"nobody accepts connections at {socket}", log + name)
    base = listener.url(environment.host, environment.port)
    try:
        status, body = asyncio.run(asyncio.wait_for(get(f"{base}/health/ready"), 5.0))
    except (OSError, ValueError) as fault:
        yield Finding("gateway", f"{base} does not answer: {fault}", log + "gateway")
        return
    if status == 200:
        yield Finding("gateway", f"{base} is ready")
    else:
        yield Finding("gateway", f"{base} is not ready: {body.decode(errors='replace')[:500]}", log + "gateway")


def _models(environment: Environment) -> Iterator[Finding]:
    found = 0
    for directory in environment.models_dirs:
        if directory.exists() and not os.access(directory, os.R_OK | os.X_OK):
            yield Finding(
                "models", f"{directory} can't be read", f"Give us the right to read it: chmod a+rX {directory}"
            )
        elif directory.exists():
            found += sum(1 for _ in directory.rglob("*.gguf"))
    if found:
        yield Finding("models", f"{found} GGUF files in {':'.join(map(str, environment.models_dirs))}")
    elif environment.starter_model and starter_path() is not None:
        verb = "will be" if running_pid(environment.data_dir) is None else "is"
        yield Finding("models", f"none yet; the starter model {verb} served")
    else:
        yield Finding(
            "models",
            "there is none to serve",
            f"Put a GGUF into {' or '.join(map(str, environment.models_dirs))}, or set NOPENAI_STARTER_MODEL=1",
        )
