"""What the supervisor of a node says (its replicas, their caches, sums, memory), and what we ask of it. What it says of
permits goes on to :mod:`inference.gateway.permits`.

These views are the supervisor's last word, kept while it can't be reached: workers die with it, and a request notices
that by itself.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Protocol

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
    NodeView,
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

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_REPORT_SECONDS = 1.0
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 2.0


class Says(Protocol):
    """What a gateway tells a supervisor by itself, when it is asked."""

    def demands(self) -> Iterable[Demand]:
        """What is waited for there."""

    def in_use(self) -> set[int]:
        """Versions (by primary key) that work for us there right now."""

    def take_counts(self) -> Counted | None:
        """What was counted since it was asked last. None: nothing."""


class SupervisorLink:
    """Our end of a supervisor's socket. Runs from :meth:`start` to :meth:`stop`, reconnecting as long as it takes."""

    def __init__(
        self,
        node: str,
        open_streams: Callable[[], Awaitable[Streams]],
        says: Says,
        *,
        on_change: "Callable[[SupervisorLink, View], None]",
        permits: Permits | None = None,
        on_relayed: Callable[[Relayed], None] = lambda _: None,
    ) -> None:
        """
        Args:
            node: whose supervisor it is.
            open_streams: connects to it. Raises OSError where that can't be done.
            on_change: gets the view before; the new one is :attr:`view` by then. A connection that comes or goes is a
                change, too.
            permits: what it says of them is for these. None: it grants none.
            on_relayed: gets what other gateways say.
        """
        self.node = node
        self.view: View = MappingProxyType({})
        self.about = NodeView()
        self.caches: Caches | None = None
        """None: it has said nothing of them yet."""
        self.sums = Sums(models=())
        self.pressure = ""
        """Why the node is about to run out of memory; empty: it is not."""
        self.connected = False
        self.since = time.time()
        self._permits = permits
        self._on_relayed = on_relayed
        self._open_streams = open_streams
        self._says = says
        self._on_change = on_change
        self._writer: asyncio.StreamWriter | None = None
        self._used: set[int] = set()
        self._leaving = False
        self._starting = permits is not None
        self._unreachable = ""
        """Why, as it was told last."""
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._report())]

    async def stop(self) -> None:
        self._tell_counts()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def send(self, *messages: GatewayToSupervisor) -> bool:
        """While the supervisor is away nobody hears it."""
        if self._writer is None:
            return False
        self._writer.write(encode_frame(messages))
        return True

    def forget(self) -> None:
        """What it has said of its replicas."""
        self.view = MappingProxyType({})

    def used(self, version_pk: int) -> None:
        """A request was served by this version: its idle timer starts again with the next report."""
        self._used.add(version_pk)

    async def _run(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                await self._converse()
                pause = _FIRST_PAUSE_SECONDS
            except OSError as fault:
                self._tell_unreachable(str(fault))
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            except ProtocolError as fault:
                log.error("The supervisor broke the protocol", node=self.node, reason=str(fault))
                pause = _LONGEST_PAUSE_SECONDS
            await asyncio.sleep(pause)

    async def _converse(self) -> None:
        """One connection, from its beginning to its end. Raises OSError where there can't be one."""
        reader, writer = await self._open_streams()
        decoder: FrameDecoder[SupervisorToGateway] = FrameDecoder(SupervisorToGateway)
        self._writer = writer
        self._connection_changed(True)
        try:
            self.send(Subscribe(protocol=PROTOCOL_VERSION), *self._says.demands())
            self.pressure = ""
            if self._permits is not None:
                self._permits.connected(self._send_all)
            while messages := await read_messages(reader, decoder):
                self._accept(messages)
        except asyncio.CancelledError:  # it is we who leave
            self._leaving = True
            raise
        finally:
            self._writer = None
            if self._permits is not None:
                self._permits.disconnected()
            self._connection_changed(False)
            writer.close()

    def _tell_unreachable(self, reason: str) -> None:
        """Once for each reason. While a server starts its supervisor is late, which is no news."""
        if reason != self._unreachable:
            (log.debug if self._starting else log.warning)(
                "The supervisor can't be reached", node=self.node, reason=reason
            )
        self._unreachable = reason

    def _connection_changed(self, connected: bool) -> None:
        self.connected, self.since = connected, time.time()
        self._starting, self._unreachable = False, ""
        if connected:
            log.info("Connected to the supervisor", node=self.node)
        elif not self._leaving:
            log.warning("The supervisor's connection was lost", node=self.node)
        self._on_change(self, self.view)

    def _accept(self, messages: Iterable[SupervisorToGateway]) -> None:
        """Of each kind of view the newest counts."""
        newest: dict[type, Replicas | Caches | Sums | Pressure] = {}
        for message in messages:
            if isinstance(message, PermitAnswer):
                if self._permits is not None:
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
        before, self.about = self.view, message.node
        self.view = MappingProxyType({replica.version_pk: replica for replica in message.replicas})
        self._on_change(self, before)

    async def _report(self) -> None:
        """Once a second: repeat what is waited for, renew the idle timers of what is in use, tell what was counted."""
        while True:
            await asyncio.sleep(_REPORT_SECONDS)
            messages: list[GatewayToSupervisor] = [*self._says.demands()]
            if in_use := self._used | self._says.in_use():
                messages.append(InUse(versions=tuple(sorted(in_use))))
            if messages and self.send(*messages):
                self._used = set()
            self._tell_counts()

    def _tell_counts(self) -> None:
        """While the supervisor is away, what was counted waits."""
        if self._writer is not None and (counted := self._says.take_counts()) is not None:
            self.send(counted)

    def _send_all(self, messages: Iterable[GatewayToSupervisor]) -> None:
        self.send(*messages)


def state_of(view: View, version_pk: int) -> ReplicaState:
    replica = view.get(version_pk)
    return ReplicaState.COLD if replica is None else replica.state
