"""The order in which an installation starts and stops.

Start:  postgres ∥ redis → prepare → supervisor ∥ gateway → verdict ∥ web → celery, beat
Stop:   beat ∥ celery ∥ gateway → web ∥ supervisor → redis ∥ postgres, each with a deadline; a second signal hurries.
"""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from nopenai_site.environment import Environment
from nopenai_site.up import postgres, redis, report
from nopenai_site.up.child import ChildSpec, spawn
from nopenai_site.up.directories import make_private
from nopenai_site.up.journal import Journal
from nopenai_site.up.keeper import Keeper
from nopenai_site.up.listener import url
from nopenai_site.up.plan import Plan
from nopenai_site.up.prepared import fingerprint, is_prepared, mark_prepared, sources
from nopenai_site.up.readiness import shortcomings
from nopenai_site.up.terminal import readable

# PostgreSQL sessions: per gateway one that listens and one that asks, the web process's threads, the supervisor,
# Celery, an operator's psql and monitoring.
_CONNECTIONS = 48
_CONNECTIONS_PER_GATEWAY = 4

_READY_SECONDS = 30.0
# How long a start waits for the first model to be discovered before it says that there is none.
SETTLE_SECONDS = 5.0
# How much of that the other processes let pass before they start beside it.
_HEAD_START_SECONDS = 1.0

_STOP_ORDER = (("beat", "celery", "gateway"), ("web", "supervisor", "door"), ("redis", "postgres"))


class StartFault(Exception):
    """The installation can't start. ``str()`` is meant for the operator; ``status`` is our exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class Installation:
    """All children of one ``manage.py up``."""

    def __init__(
        self,
        environment: Environment,
        *,
        listening: socket.socket,
        lock: int,
        journal: Journal,
        say: Callable[[str], None],
        began_at: float,
    ) -> None:
        """``say`` shows the start report to the operator; ``began_at`` is when the start began (monotonic)."""
        self._environment = environment
        self._listening = listening
        self._plan = Plan(environment, lock=lock)
        self._journal = journal
        self._say = say
        self._began_at = began_at
        self._keepers: dict[str, Keeper] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stop_asked = asyncio.Event()
        self._hurry = asyncio.Event()
        self._cluster: Path | None = None

    async def run(self) -> None:
        """Start, serve until a signal, stop.

        Raises:
            StartFault, NeverReady, PostgresFault, RedisFault, NoAccount, DirectoryFault: all children are stopped then.
        """
        self._listen_to_signals()
        starting = asyncio.create_task(self._start())
        self._tasks.append(starting)
        stop_asked = asyncio.create_task(self._stop_asked.wait())
        try:
            await self._until_fault_or(stop_asked)
        finally:
            starting.cancel()
            await self._stop()

    async def _start(self) -> None:
        await self._start_servers()
        await self._prepare()
        supervisor = self._keep(self._plan.supervisor())
        gateway = self._keep(self._plan.gateway(self._listening.fileno(), self._own_url()))
        if self._environment.node_address is not None:
            self._keep(self._plan.door())
        await self._patiently(supervisor, gateway)
        # What follows is not needed for an answer, and on few cores would delay it; but where there is no model to
        # wait for, the admin is where one is added.
        verdict = asyncio.create_task(self._give_verdict())
        await asyncio.wait([verdict], timeout=_HEAD_START_SECONDS)
        await asyncio.gather(verdict, self._patiently(self._keep(self._plan.web())))
        self._keep(self._plan.celery_worker())
        self._keep(self._plan.celery_beat())
        self._journal.log("INFO", "Everything is started", seconds=round(time.monotonic() - self._began_at, 1))

    async def _give_verdict(self) -> None:
        reasons = await shortcomings(self._own_url(), SETTLE_SECONDS)
        seconds = time.monotonic() - self._began_at
        self._say(report.serving(self._environment, seconds=seconds, reasons=reasons))

    async def _patiently(self, *keepers: Keeper) -> None:
        """Wait until all are ready, but not for ever: one that is slow does not keep the others from starting."""
        try:
            async with asyncio.timeout(_READY_SECONDS):
                await asyncio.gather(*(keeper.ready.wait() for keeper in keepers))
        except TimeoutError:
            slow = [keeper.spec.name for keeper in keepers if not keeper.ready.is_set()]
            self._journal.log("WARN", f"Not ready after {_READY_SECONDS:.0f} s: {', '.join(slow)}; going on without")

    async def _start_servers(self) -> None:
        environment = self._environment
        started = []
        if environment.redis_url is None:
            broker = redis.embedded(socket_dir=environment.servers_dir)
            make_private(environment.servers_dir, broker.account)
            started.append(self._keep(self._plan.redis(broker)))
        if environment.database_url is None:
            server = postgres.embedded(
                data_dir=environment.data_dir,
                socket_dir=environment.servers_dir,
                max_connections=_CONNECTIONS + _CONNECTIONS_PER_GATEWAY * environment.gateway_workers,
            )
            make_private(environment.servers_dir, server.account)
            if postgres.initialise(server):
                self._journal.log("INFO", "Made a new database", path=str(server.cluster))
            self._cluster = server.cluster
            started.append(self._keep(self._plan.postgres(server), before=lambda: postgres.clear_leftovers(server)))
        await asyncio.gather(*(keeper.ready.wait() for keeper in started))

    async def _prepare(self) -> None:
        """Migrate and make the first administrator, unless this was done for exactly this code before."""
        wanted = fingerprint(sources())
        if self._cluster is not None and is_prepared(self._cluster, wanted):
            return
        reading, writing = os.pipe()
        try:
            child = await spawn(
                self._plan.prepare(writing), lowest=self._environment.log_level, write=self._journal.write
            )
        finally:
            os.close(writing)
        with os.fdopen(reading) as pipe:
            await child.exited.wait()
            answer = json.loads(pipe.read() or "{}")
        if child.process.returncode != 0:
            fallback = f"prepare {child.describe_exit()}:\n" + "\n".join(map(readable, child.last_lines))
            raise StartFault(answer.get("fault", fallback), child.process.returncode if "fault" in answer else 1)
        if "admin_user" in answer:
            self._say(report.login(answer["admin_user"], answer["admin_password"]))
        if self._cluster is not None:
            mark_prepared(self._cluster, wanted)

    def _keep(self, spec: ChildSpec, *, before: Callable[[], object] | None = None) -> Keeper:
        keeper = Keeper(spec, self._journal, lowest=self._environment.log_level, before=before)
        self._keepers[spec.name] = keeper
        self._tasks.append(asyncio.create_task(keeper.keep()))
        return keeper

    async def _until_fault_or(self, stop_asked: asyncio.Task[bool]) -> None:
        """Returns when a stop is asked for; raises what any task of ours raised."""
        while not stop_asked.done():
            pending = [task for task in self._tasks if not task.done()]
            done, _ = await asyncio.wait([stop_asked, *pending], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    async def _stop(self) -> None:
        for group in _STOP_ORDER:
            keepers = [self._keepers[name] for name in group if name in self._keepers]
            await asyncio.gather(*(keeper.stop(hurry=self._hurry) for keeper in keepers))

    def _own_url(self) -> str:
        return url(self._environment.host, self._environment.port)

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup: the terminal may close
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stop_asked.is_set():
            self._journal.log("INFO", "Stopping at once")
            self._hurry.set()
            return
        self._journal.log("INFO", "Stopping (once more to hurry)", signal=number.name)
        self._stop_asked.set()
