"""SQL as the supervisor sees it: wishes are read, observations written. Nothing waits for it.

One conversation at a time: connect, claim the node's name, LISTEN, and only then SELECT, so that no change falls
between. Then, at every notification and every few seconds, write what has changed here and read what is wished. When
the database goes away the conversation ends and begins anew as soon as it can; meanwhile the newest observation of each
version waits, and older ones are forgotten.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial

import msgspec
import psycopg
import structlog
from msgspec.structs import replace
from psycopg.conninfo import make_conninfo

from inference.protocol import ExperimentSums
from inference.specs import model_spec
from inference.supervisor.cache_sql import caches_read, use_write
from inference.supervisor.cache_versions import CacheUse
from inference.supervisor.caching import CacheReading
from inference.supervisor.events import Wish, WishesRead
from inference.supervisor.experiments import Letter, Outbox
from inference.supervisor.experiments_sql import experiments_write
from inference.supervisor.fit import Footprint
from inference.supervisor.footprint_sql import footprints_read, footprints_write
from inference.supervisor.load_times import Key, Samples
from inference.supervisor.load_times_sql import load_times_read, load_times_write
from inference.supervisor.replica import Desired, Observation
from inference.supervisor.sql import DatabaseAway, SqlThread, cut
from inference.supervisor.throttle import Throttle
from inference.supervisor.tuning_sql import tunings_read, tunings_write
from inference.supervisor.tunings import Tuning
from inference.supervisor.vitals import VitalSigns
from registry import selectors, services
from registry.catalogue import DesiredReplica
from registry.errors import first_line
from registry.health.services import vitals_record
from registry.health.vitals import Vitals
from registry.models import Node, Version
from registry.nodes.selectors import Orders, orders_read

log = structlog.get_logger(module="supervisor")

_POLL_SECONDS = 5.0
_CACHES_SECONDS = 60.0
"""What is decided about caches is read when something was announced, and so often: disks fill up unannounced. With ten
thousand models it takes 0.1 s."""
_EXPERIMENT_SECONDS = 1.0
"""Counts of A/B tests are written so often at most."""
_RETRY_SECONDS = 1.0
_EXCHANGE_SECONDS = 10.0
_CONNECT_SECONDS = 5

_SESSION: Mapping[str, str | int] = {
    "application_name": "nopenai supervisor",
    "connect_timeout": _CONNECT_SECONDS,
    # Dead peers are noticed within half a minute, on either side (over a Unix socket at once, without these).
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
_SERVER_KEEPALIVE = "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3"


class NodeTaken(Exception):
    """Another supervisor works under this node's name. ``str()`` is meant for the operator."""


class NodeIdentity(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    ram_budget_mb: int
    address: str = ""
    """``host:port`` of its door. Empty: it has none."""
    disk_bytes: int | None = None
    """Free for the cache on the disk of its data directory; None: not known yet."""


class Reading(msgspec.Struct, frozen=True):
    registered: bool
    """The node was unknown until now, so no observation of it is there."""
    wishes: tuple[Wish, ...]
    caches: CacheReading | None
    """None: they were not due."""
    tunings: list[Tuning]
    footprints: dict[int, Footprint]
    load_times: dict[Key, Samples]
    orders: Orders


class Store:
    """The only one here who talks to SQL about this node."""

    def __init__(
        self,
        node: NodeIdentity,
        database_url: str,
        *,
        post: Callable[[WishesRead], None],
        read_caches: Callable[[CacheReading], None],
        read_tunings: Callable[[Sequence[Tuning]], None],
        read_footprints: Callable[[Mapping[int, Footprint]], None],
        read_load_times: Callable[[Mapping[Key, Samples]], None],
        read_orders: Callable[[Orders], None],
        disk_bytes: Callable[[], int | None],
        vitals: VitalSigns,
        rival_seconds: float,
    ) -> None:
        self._node = node
        self._database_url = database_url
        self._post = post
        self._read_caches = read_caches
        self._read_tunings = read_tunings
        self._read_footprints = read_footprints
        self._read_load_times = read_load_times
        self._read_orders = read_orders
        self._disk_bytes = disk_bytes
        self._vitals = vitals
        self._rival_seconds = rival_seconds
        self._rival_since: float | None = None
        self._sql = SqlThread("sql of the store")
        self._newest: dict[int, Observation] = {}
        self._unwritten: set[int] = set()
        self._revived: set[int] = set()
        self._use: dict[str, CacheUse] = {}
        self._measured: dict[int, Tuning] = {}
        self._footprints: dict[int, Footprint] = {}
        self._load_times: dict[Key, Samples] = {}
        self._experiments = Outbox()
        self._changed = asyncio.Event()
        self._experimenting = Throttle(self._changed.set, _EXPERIMENT_SECONDS)
        self._claimed = False
        """The node's name is ours, or was until a moment ago."""
        self._registered = False
        self._away = False
        self._notified = True
        """Something has changed in SQL since it was read."""
        self._caches_at = 0.0

    def record(self, observation: Observation) -> None:
        self._newest[observation.version_pk] = observation
        self._unwritten.add(observation.version_pk)
        self._changed.set()

    def revive(self, version_pk: int) -> None:
        self._revived.add(version_pk)
        self._changed.set()

    def record_use(self, counts: Mapping[str, CacheUse]) -> None:
        """By model; what was counted since the last call."""
        self._add_use(counts)
        self._changed.set()

    def record_tuning(self, tuning: Tuning) -> None:
        self._measured[tuning.version_pk] = tuning
        self._changed.set()

    def record_footprints(self, seen: Mapping[int, Footprint]) -> None:
        """By version. They are written with whatever comes next: a few seconds matter to nobody."""
        self._footprints |= seen

    def record_load_times(self, learned: Mapping[Key, Samples]) -> None:
        """By version and tier; likewise."""
        self._load_times |= learned

    def record_experiments(self, tests: Mapping[str, Mapping[str, ExperimentSums]]) -> None:
        """By the A/B test's name and its split; what was counted since the last call."""
        self._experiments.put(tests)
        self._experimenting.ask()

    async def run(self) -> None:
        """Keep SQL and us in step, for ever.

        Raises:
            NodeTaken: when it can't, because another supervisor does.
        """
        while True:
            try:
                async with self._listening() as listener:
                    await self._converse(listener)
            except* DatabaseAway as group:
                self._say_away(str(group.exceptions[0]))
            await asyncio.sleep(_RETRY_SECONDS)

    async def close(self, *, seconds: float) -> None:
        """Write what is left, if that takes no longer than ``seconds``."""
        self._experimenting.close()
        try:
            if self._claimed:
                await self._exchange(seconds)
        except DatabaseAway as fault:
            log.warning("The last states could not be recorded", reason=str(fault))
        self._sql.close()

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator["psycopg.AsyncConnection[tuple[object, ...]]"]:
        """A session that owns the node's name and hears of every change."""
        try:
            listener = await psycopg.AsyncConnection.connect(
                make_conninfo(self._database_url, **_SESSION), autocommit=True
            )
        except (psycopg.Error, OSError) as fault:
            raise DatabaseAway(first_line(fault)) from fault
        # A frozen server would leave these queries, and even their cancellation, without an end.
        deadline = asyncio.get_running_loop().call_later(_CONNECT_SECONDS, cut, listener)
        try:
            await self._claim_name(listener)
            await listener.execute("LISTEN nopenai")
            deadline.cancel()
            yield listener
        except psycopg.Error as fault:
            raise DatabaseAway(first_line(fault)) from fault
        finally:
            deadline.cancel()
            cut(listener)
            await listener.close()

    async def _claim_name(self, listener: "psycopg.AsyncConnection[tuple[object, ...]]") -> None:
        """The name is ours as long as this session lives."""
        await listener.execute(_SERVER_KEEPALIVE)
        query = "SELECT pg_try_advisory_lock(hashtext('nopenai node'), hashtext(%s))"
        row = await (await listener.execute(query, [self._node.name])).fetchone()
        if row == (True,):
            self._rival_since = None
            self._claimed = True
            return
        now = asyncio.get_running_loop().time()
        self._rival_since = now if self._rival_since is None else self._rival_since
        rival = f"Another supervisor works as node '{self._node.name}'"
        if not self._registered and now - self._rival_since >= self._rival_seconds:
            raise NodeTaken(f"{rival}. Stop it, or set NOPENAI_NODE_NAME here to a name of its own.")
        raise DatabaseAway(rival)

    async def _converse(self, listener: "psycopg.AsyncConnection[tuple[object, ...]]") -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._hear(listener))
            tasks.create_task(self._keep_in_step())

    async def _hear(self, listener: "psycopg.AsyncConnection[tuple[object, ...]]") -> None:
        try:
            async for _ in listener.notifies():
                self._notified = True
                self._changed.set()
        except psycopg.Error as fault:
            raise DatabaseAway(first_line(fault)) from fault
        raise DatabaseAway("the session that listens has ended")

    async def _keep_in_step(self) -> None:
        # What was written last may have been lost with the server.
        self._unwritten.update(self._newest)
        self._vitals.forget_told()
        self._notified = True
        while True:
            self._changed.clear()
            await self._exchange(_EXCHANGE_SECONDS)
            self._say_back()
            try:
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _exchange(self, seconds: float) -> None:
        """Write, then read. What can't be written waits for the next time."""
        read_at = asyncio.get_running_loop().time()
        unwritten, self._unwritten = self._unwritten, set()
        revived, self._revived = self._revived, set()
        observations = [self._newest[pk] for pk in unwritten]
        use, self._use = self._use, {}
        measured, self._measured = self._measured, {}
        vitals = self._vitals.news(hurried=bool(observations))
        footprints, self._footprints = self._footprints, {}
        notified, self._notified = self._notified, False
        due = notified or read_at - self._caches_at >= _CACHES_SECONDS
        load_times, self._load_times = self._load_times, {}
        node = replace(self._node, disk_bytes=self._disk_bytes())
        write_and_read = partial(
            _write_and_read,
            node,
            not self._registered,
            observations,
            sorted(revived),
            use,
            list(measured.values()),
            footprints,
            load_times,
            self._experiments.next(),
            vitals,
            due,
        )
        try:
            reading = await self._sql.call(write_and_read, seconds=seconds)
        except BaseException as fault:
            self._notified |= notified
            self._unwritten |= unwritten
            self._revived |= revived
            self._measured = measured | self._measured
            self._footprints = footprints | self._footprints
            self._load_times = load_times | self._load_times
            self._add_use(use)  # counted twice if only the answer was lost: a share is no invoice
            if isinstance(fault, Exception) and not isinstance(fault, DatabaseAway):
                # A fault of ours is no reason to stop serving models.
                raise DatabaseAway(f"{type(fault).__name__}: {fault}") from fault
            raise
        self._registered = True
        self._experiments.arrived()
        self._vitals.told(vitals)
        if reading.caches is not None:
            self._caches_at = read_at
            self._read_caches(reading.caches)
        self._read_tunings(reading.tunings)
        self._read_footprints(reading.footprints)
        self._read_load_times(reading.load_times)
        self._read_orders(reading.orders)
        if reading.registered:
            # Registering made every replica cold, and this reading was of a node without observations.
            self._unwritten.update(self._newest)
            self._vitals.forget_told()
        if reading.registered and self._newest:
            self._changed.set()
        else:
            self._post(WishesRead(read_at=read_at, wishes=reading.wishes))

    def _add_use(self, counts: Mapping[str, CacheUse]) -> None:
        for model, use in counts.items():
            self._use[model] = self._use.get(model, CacheUse()) + use

    def _say_away(self, reason: str) -> None:
        if not self._away:
            self._away = True
            log.warning("States can't be recorded; models go on being loaded on demand", reason=reason)

    def _say_back(self) -> None:
        if self._away:
            self._away = False
            log.info("States are recorded again")


def _write_and_read(
    node: NodeIdentity,
    register: bool,
    observations: list[Observation],
    revived: list[int],
    use: Mapping[str, CacheUse],
    measured: list[Tuning],
    footprints: Mapping[int, Footprint],
    load_times: Mapping[Key, Samples],
    letter: Letter | None,
    vitals: Sequence[Vitals],
    caches_due: bool,
) -> Reading:
    """One exchange. Runs in the thread; every part but the last may be repeated."""
    register = register or not Node.objects.filter(name=node.name).exists()
    if register:
        services.node_register(
            name=node.name,
            ram_budget_mb=node.ram_budget_mb,
            pid=os.getpid(),
            disk_bytes=node.disk_bytes,
            address=node.address,
        )
    else:
        services.node_heartbeat(name=node.name, disk_bytes=node.disk_bytes)
    for version_pk in revived:
        services.replica_revive(node=node.name, version_pk=version_pk)
    for seen in observations:
        services.replica_observe(
            node=node.name,
            version_pk=seen.version_pk,
            observed=seen.observed.value,
            reason=seen.reason.replace("\0", "\N{REPLACEMENT CHARACTER}"),
            pid=seen.pid,
            restarts=seen.restarts,
        )
    vitals_record(node=node.name, vitals=vitals)
    orders = orders_read(node.name)
    desired = selectors.replicas_desired(node.name)
    barred = frozenset(replica.version.pk for replica in desired) if orders.empties else _barred(desired)
    wishes = tuple(_wish(replica, barred) for replica in desired)
    caches = caches_read(node.name) if caches_due or register else None
    tunings_write(measured)
    tunings = tunings_read()
    footprints_write(node.name, footprints)
    known = footprints_read(node.name)
    load_times_write(node.name, load_times)
    loads = load_times_read(node.name)
    experiments_write(node.name, letter)
    use_write(use)
    return Reading(register, wishes, caches, tunings, known, loads, orders)


def _barred(desired: list[DesiredReplica]) -> frozenset[int]:
    """Which of the stopped ones no demand may bring back: ``stopped`` is said of them too."""
    stopped = [replica.version.pk for replica in desired if replica.desired == "stopped"]
    if not stopped:
        return frozenset()
    versions = Version.objects.filter(pk__in=stopped).select_related("model")
    return frozenset(version.pk for version in versions if not version.servable)


def _wish(replica: DesiredReplica, barred: frozenset[int]) -> Wish:
    return Wish(
        model_spec(replica.version),
        Desired.BARRED if replica.version.pk in barred else Desired(replica.desired),
    )
