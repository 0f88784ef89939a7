"""The supervisor's socket: gateways connect, ask for models, and are told of every change on this node."""

import asyncio
import fcntl
import os
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from inference.protocol import (
    PROTOCOL_VERSION,
    Caches,
    Counted,
    Demand,
    FrameDecoder,
    GatewayToSupervisor,
    InUse,
    PermitAnswer,
    Pressure,
    ProtocolError,
    Relayed,
    Replicas,
    Sampled,
    Strays,
    Subscribe,
    Sums,
    encode_frame,
    read_messages,
)
from inference.supervisor.events import Demanded, Event, Used
from inference.supervisor.permitting import Permitting
from inference.supervisor.relay import Relay

log = structlog.get_logger(module="supervisor")

View = Replicas | Caches | Sums | Pressure

_MOST_RELAYED = 256
"""Of which only the newest counts."""


class AlreadyRunning(Exception):
    """Another supervisor owns this socket. ``str()`` is meant for the operator."""


class Claim:
    """Sole ownership of a socket's path, as long as this process lives.

    The lock is the kernel's: it ends with its holder, however that ends, so a stale socket needs no guessing.
    """

    def __init__(self, path: Path) -> None:
        """
        Raises:
            AlreadyRunning: naming the process that holds it.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as fault:
            holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._lock)
            raise AlreadyRunning(
                f"Another supervisor (process {holder}) owns {path}. Stop it first, or give this one a data directory "
                "of its own (NOPENAI_DATA_DIR)."
            ) from fault
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)

    def listen(self) -> socket.socket:
        """A listening socket that only our own user can connect to."""
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.path))
        # Nobody can connect before listen(), so the mode is in force from the first moment.
        self.path.chmod(0o600)
        listener.listen(128)
        return listener

    def release(self) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self._lock)


class SupervisorServer:
    """Turns frames into events, and publishes the node's views, of replicas, caches and sums, to whoever subscribed."""

    def __init__(
        self,
        post: Callable[[Event], None],
        replicas: Callable[[], Replicas],
        caches: Callable[[], Caches],
        *,
        sums: Callable[[], Sums],
        counted: Callable[[Counted], None],
        pressure: Callable[[], Pressure],
        permitting: Permitting,
    ) -> None:
        """``counted`` gets what gateways have counted, ``permitting`` what they say of permits; everything else is an
        event."""
        self._post = post
        self._pressure = pressure
        self._permitting = permitting
        self._replicas = replicas
        self._caches = caches
        self._sums = sums
        self._counted = counted
        self._relay = Relay()
        self._subscribers: set[_Subscriber] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self, listener: socket.socket) -> None:
        self._server = await asyncio.start_unix_server(self._serve, sock=listener)

    def publish_replicas(self) -> None:
        for subscriber in self._subscribers:
            subscriber.owe(self._replicas)

    def publish_caches(self) -> None:
        for subscriber in self._subscribers:
            subscriber.owe(self._caches)

    def publish_sums(self) -> None:
        for subscriber in self._subscribers:
            subscriber.owe(self._sums)

    def publish_pressure(self) -> None:
        for subscriber in self._subscribers:
            subscriber.owe(self._pressure)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        subscriber = _Subscriber(writer)
        sending: asyncio.Task[None] | None = None
        gateway = 0
        try:
            decoder: FrameDecoder[GatewayToSupervisor] = FrameDecoder(GatewayToSupervisor)
            while messages := await read_messages(reader, decoder):
                for message in messages:
                    if sending is None:
                        _require_subscription(message)
                        self._subscribers.add(subscriber)
                        subscriber.owe(self._replicas)
                        subscriber.owe(self._caches)
                        subscriber.owe(self._sums)
                        if self._pressure().reason:
                            subscriber.owe(self._pressure)
                        for told in self._relay.kept():
                            subscriber.relay(told)
                        sending = asyncio.create_task(subscriber.send())
                        gateway = self._permitting.connected(subscriber.tell)
                    else:
                        self._receive(gateway, subscriber, message)
        except ProtocolError as fault:
            log.error("A gateway broke the protocol; its connection is closed", reason=str(fault))
        except OSError as fault:
            log.debug("A gateway's connection broke", reason=str(fault))
        finally:
            self._writers.discard(writer)
            self._subscribers.discard(subscriber)
            if sending is not None:
                sending.cancel()
                self._permitting.disconnected(gateway)
            writer.close()

    def _receive(self, gateway: int, sender: "_Subscriber", message: GatewayToSupervisor) -> None:
        match message:
            case Demand(spec=spec):
                self._post(Demanded(spec))
            case InUse(versions=versions):
                self._post(Used(versions))
            case Counted():
                self._counted(message)
            case Strays() | Sampled():
                self._relay.keep(message)
                for subscriber in self._subscribers - {sender}:
                    subscriber.relay(message)
            case Subscribe():
                raise ProtocolError("it subscribed twice")
            case _:
                self._permitting.received(gateway, message)


def _require_subscription(message: GatewayToSupervisor) -> None:
    if not isinstance(message, Subscribe):
        raise ProtocolError(f"its first message is {type(message).__name__}, not Subscribe")
    if message.protocol != PROTOCOL_VERSION:
        raise ProtocolError(
            f"it speaks version {message.protocol}, this supervisor version {PROTOCOL_VERSION}: restart both together"
        )


class _Subscriber:
    """A gateway that wants to know. One that reads slowly misses views that a newer one has replaced, nothing else."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._owed: dict[Callable[[], View], None] = {}
        """In the order in which they fell due."""
        self._answers: list[PermitAnswer] = []
        self._relayed: deque[Relayed] = deque(maxlen=_MOST_RELAYED)
        """One that reads slowly misses the oldest."""
        self._due = asyncio.Event()

    def tell(self, answer: PermitAnswer) -> None:
        self._answers.append(answer)
        self._due.set()

    def relay(self, message: Relayed) -> None:
        self._relayed.append(message)
        self._due.set()

    def owe(self, view: Callable[[], View]) -> None:
        """A view has changed. It is made when it is sent."""
        self._owed[view] = None
        self._due.set()

    async def send(self) -> None:
        with suppress(OSError):  # the reading side sees it too, and ends the connection
            while await self._due.wait():
                self._due.clear()
                owed, self._owed = self._owed, {}
                answers, self._answers = self._answers, []
                relayed = list(self._relayed)
                self._relayed.clear()
                self._writer.write(encode_frame([*answers, *(view() for view in owed), *relayed]))
                await self._writer.drain()
