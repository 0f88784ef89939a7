"""What the supervisor says of this node (its replicas, their caches, sums, memory), and what we ask of it. What it says
of permits goes on to :mod:`inference.gateway.permits`.

These views are the supervisor's last word, kept while it can't be reached: workers die with it, and a request notices
that by itself.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import structlog

from inference.gateway.permits import Permits
from inference.protocol import (
    PROTOCOL_VERSION,
    Caches,
    Counted,
    Demand,
    FrameDecoder,
    GatewayToSupervisor,
    InUse,
    ModelSpec,
    PermitAnswer,
    Pressure,
    ProtocolError,
    Relayed,
    Replicas,
    ReplicaState,
    ReplicaView,
    Subscribe,
    Sums,
    SupervisorToGateway,
    encode_frame,
    read_messages,
)

log = structlog.get_logger(module="gateway")

View = Mapping[int, ReplicaView]
"""By the version's primary key; what is not named is cold."""

_REPORT_SECONDS = 1.0
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 2.0


class _Demanded:
    """A version that ``requests`` wait for."""

    __slots__ = ("requests", "spec")

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.requests = 0


class ReplicaClient:
    """Our end of the supervisor's socket. Runs from :meth:`start` to :meth:`stop`, reconnecting as long as it takes."""

    def __init__(
        self,
        socket: Path,
        *,
        on_change: Callable[[View], None],
        busy_versions: Callable[[], set[int]],
        take_counts: Callable[[], Counted | None] = lambda: None,
        permits: Permits | None = None,
        on_relayed: Callable[[Relayed], None] = lambda _: None,
    ) -> None:
        """``on_change`` gets each new view; ``busy_versions`` tells which versions work for us right now;
        ``take_counts`` gives what was counted since it was called last; None: nothing. ``on_relayed`` gets what other
        gateways say."""
        self.view: View = MappingProxyType({})
        self.caches: Caches | None = None
        """None: it has said nothing of them yet."""
        self.sums = Sums(models=())
        self.pressure = ""
        """Why the node is about to run out of memory; empty: it is not."""
        self.connected = False
        self.since = time.time()
        self._permits = permits or Permits()
        self._on_relayed = on_relayed
        self._socket = socket
        self._on_change = on_change
        self._busy_versions = busy_versions
        self._take_counts = take_counts
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}
        self._demands: dict[int, _Demanded] = {}
        self._used: set[int] = set()
        self._leaving = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._report())]

    async def stop(self) -> None:
        self._tell_counts()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def relay(self, message: Relayed) -> None:
        """Tell all other gateways of this node. While the supervisor is away nobody hears it."""
        self._send(message)

    def used(self, version_pk: int) -> None:
        """A request was served by this version: its idle timer starts again with the next report."""
        self._used.add(version_pk)

    async def demand(self, spec: ModelSpec, seconds: float) -> bool:
        """Ask for a version and wait until the view of it changes; False after ``seconds`` without a change."""
        waiting = self._demands.get(spec.version_pk)
        if waiting is None:
            waiting = self._demands[spec.version_pk] = _Demanded(spec)
            self._send(Demand(spec=spec))
        waiting.requests += 1
        try:
            return await self.changed(spec.version_pk, seconds)
        finally:
            waiting.requests -= 1
            if not waiting.requests:
                del self._demands[spec.version_pk]

    async def changed(self, version_pk: int, seconds: float) -> bool:
        """Wait until the view of a version changes; False after ``seconds`` without a change."""
        waiters = self._waiting.setdefault(version_pk, [])
        change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters.append(change)
        try:
            async with asyncio.timeout(seconds):
                await change
        except TimeoutError:
            return False
        finally:
            if change in waiters:
                waiters.remove(change)
            if not waiters and self._waiting.get(version_pk) is waiters:
                del self._waiting[version_pk]
        return True

    async def _run(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                await self._converse()
                pause = _FIRST_PAUSE_SECONDS
            except OSError:
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            except ProtocolError as fault:
                log.error("The supervisor broke the protocol", reason=str(fault))
                pause = _LONGEST_PAUSE_SECONDS
            await asyncio.sleep(pause)

    async def _converse(self) -> None:
        """One connection, from its beginning to its end. Raises OSError where there can't be one."""
        reader, writer = await asyncio.open_unix_connection(self._socket)
        decoder: FrameDecoder[SupervisorToGateway] = FrameDecoder(SupervisorToGateway)
        self._writer = writer
        self._connection_changed(True)
        try:
            self._send(Subscribe(protocol=PROTOCOL_VERSION), *self._open_demands())
            self.pressure = ""
            self._permits.connected(self._send_all)
            while messages := await read_messages(reader, decoder):
                self._accept(messages)
        except asyncio.CancelledError:  # it is we who leave
            self._leaving = True
            raise
        finally:
            self._writer = None
            self._permits.disconnected()
            self._connection_changed(False)
            writer.close()

    def _connection_changed(self, connected: bool) -> None:
        self.connected, self.since = connected, time.time()
        if connected:
            log.info("Connected to the supervisor")
        elif not self._leaving:
            log.warning("The supervisor's connection was lost")

    def _accept(self, messages: Iterable[SupervisorToGateway]) -> None:
        """Of each kind of view the newest counts."""
        newest: dict[type, Replicas | Caches | Sums | Pressure] = {}
        for message in messages:
            if isinstance(message, PermitAnswer):
                self._permits.accept(message)
            elif isinstance(message, Relayed):
                self._on_relayed(message)
            else:
                newest[type(message)] = message
        for view in newest.values():
            if isinstance(view, Caches):
                self.caches = view
            elif isinstance(view, Sums):
                self.sums = view
            elif isinstance(view, Pressure):
                self.pressure = view.reason
            else:
                self._accept_replicas(view)

    def _accept_replicas(self, message: Replicas) -> None:
        old, self.view = self.view, MappingProxyType({replica.version_pk: replica for replica in message.replicas})
        self._on_change(self.view)
        for version_pk in old.keys() | self.view.keys():
            if old.get(version_pk) != self.view.get(version_pk):
                self._wake(version_pk)

    def _wake(self, version_pk: int) -> None:
        for waiter in self._waiting.pop(version_pk, ()):
            if not waiter.done():
                waiter.set_result(None)

    async def _report(self) -> None:
        """Once a second: repeat what is waited for, renew the idle timers of what is in use, tell what was counted."""
        while True:
            await asyncio.sleep(_REPORT_SECONDS)
            messages: list[GatewayToSupervisor] = [*self._open_demands()]
            if in_use := self._used | self._busy_versions():
                messages.append(InUse(versions=tuple(sorted(in_use))))
            if messages and self._send(*messages):
                self._used = set()
            self._tell_counts()

    def _tell_counts(self) -> None:
        """While the supervisor is away, what was counted waits."""
        if self._writer is not None and (counted := self._take_counts()) is not None:
            self._send(counted)

    def _open_demands(self) -> list[Demand]:
        return [Demand(spec=demanded.spec) for demanded in self._demands.values()]

    def _send_all(self, messages: Iterable[GatewayToSupervisor]) -> None:
        self._send(*messages)

    def _send(self, *messages: GatewayToSupervisor) -> bool:
        if self._writer is None:
            return False
        self._writer.write(encode_frame(messages))
        return True


def state_of(view: View, version_pk: int) -> ReplicaState:
    replica = view.get(version_pk)
    return ReplicaState.COLD if replica is None else replica.state
