"""PostgreSQL and Redis for the tests: the product's own embedded servers, started once in a temporary directory."""

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nopenai_site.environment import Environment
from nopenai_site.up import postgres, redis
from nopenai_site.up.directories import make_private
from nopenai_site.up.privileges import Account, tie_to_parent
from tests.waiting import wait_until


@contextmanager
def running_services(environment: Environment) -> Iterator[None]:
    """Both servers of ``environment``; gone, with what they wrote, at the end."""
    make_private(environment.data_dir)
    make_private(environment.run_dir)
    with running_postgres(environment), running_redis(environment):
        yield


@contextmanager
def running_postgres(
    environment: Environment, *, durable: bool = False, binaries: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    server = postgres.embedded(
        data_dir=environment.data_dir,
        socket_dir=environment.servers_dir,
        max_connections=100,
        binaries=binaries,
        durable=durable,
    )
    make_private(environment.servers_dir, server.account)
    postgres.initialise(server)
    log = environment.data_dir / "postgresql.log"
    with _running(server.command(), server.account, server.ready, log, signal.SIGINT) as process:
        yield process
    if not durable:
        shutil.rmtree(server.cluster, ignore_errors=True)


@contextmanager
def running_redis(environment: Environment) -> Iterator[subprocess.Popen[bytes]]:
    server = redis.embedded(socket_dir=environment.servers_dir)
    make_private(environment.servers_dir, server.account)
    log = environment.data_dir / "redis.log"
    with _running(server.command(), server.account, server.ready, log, signal.SIGTERM) as process:
        yield process


@contextmanager
def _running(
    command: Sequence[str], account: Account | None, ready: Callable[[], bool], log: Path, stop: signal.Signals
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(postgres.SERVER_ENVIRONMENT),
            preexec_fn=tie_to_parent(stop, account),
            start_new_session=True,
        )
    try:
        wait_until(ready, 30, lambda: f"{command[0]} did not start:\n{log.read_text()}", lambda: process.poll() is None)
        yield process
    finally:
        process.send_signal(stop)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
