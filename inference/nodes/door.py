"""A node's door: the one TCP port on which other nodes reach its supervisor and its workers.

Whoever comes proves with TLS that they belong to the installation, names a socket in one line, and is connected to it.
From then on bytes are passed both ways, unread. It is a process of its own, so that TLS costs no worker a token.
"""

import asyncio
import re
import signal
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import cast

import structlog

from inference.nodes.passage import watch_peer
from registry.nodes.doors import Address

log = structlog.get_logger(module="door")

_TARGET = re.compile(rb"(supervisor|engine-[0-9]{1,20})\.sock")
_LONGEST_TARGET_BYTES = 64
_NAME_SECONDS = 5.0
"""From the connection to the name."""
_HANDSHAKE_SECONDS = 5.0
_MOST_BYTES = 1024 * 1024
"""That wait for a slow reader; then the other side is not read until it has caught up."""


class Door:
    """Of one node, from :meth:`open` to :meth:`close`."""

    def __init__(self, sockets: Path, context: ssl.SSLContext) -> None:
        """``sockets``: the directory of the node's sockets."""
        self._sockets = sockets
        self._context = context
        self._server: asyncio.Server | None = None
        self._guests: set[_Guest] = set()

    async def open(self, address: Address) -> Address:
        """Listen; where the port is 0, on a free one, which is returned. Raises OSError."""
        self._server = await asyncio.get_running_loop().create_server(
            self._come_in,
            address.host or None,
            address.port,
            ssl=self._context,
            ssl_handshake_timeout=_HANDSHAKE_SECONDS,
        )
        return Address(address.host, self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for guest in list(self._guests):
            guest.leave()

    def _come_in(self) -> "_Guest":
        return _Guest(self._sockets, self._guests)


class _Side(asyncio.Protocol):
    """One of two connections whose bytes go to the other."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: _Side | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(_MOST_BYTES)

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, fault: Exception | None) -> None:
        other, self.other = self.other, None
        if other is not None and other.transport is not None:
            other.transport.close()  # what was written before arrives


class _Guest(_Side):
    """A connection from another node, until it has named whom it wants and after."""

    def __init__(self, sockets: Path, guests: "set[_Guest]") -> None:
        super().__init__()
        self._sockets = sockets
        self._guests = guests
        self._said = b""
        self._opening: asyncio.Task[None] | None = None
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        watch_peer(transport)
        self._guests.add(self)
        self._patience = asyncio.get_running_loop().call_later(_NAME_SECONDS, self.leave)

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            super().data_received(data)
            return
        self._said += data
        target, end, _ = self._said.partition(b"\n")
        if self._opening is None and (end or len(target) > _LONGEST_TARGET_BYTES):
            self._open(target)

    def connection_lost(self, fault: Exception | None) -> None:
        self._guests.discard(self)
        if self._patience is not None:
            self._patience.cancel()
        if self._opening is not None:
            self._opening.cancel()
        super().connection_lost(fault)

    def leave(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def _open(self, target: bytes) -> None:
        if not _TARGET.fullmatch(target):
            log.warning(
                "A node asked for what there is not", target=target[:_LONGEST_TARGET_BYTES].decode(errors="replace")
            )
            self.leave()
            return
        assert self.transport is not None
        self.transport.pause_reading()
        self._opening = asyncio.get_running_loop().create_task(self._connect(target.decode()))

    async def _connect(self, target: str) -> None:
        inside = _Side()
        inside.other = self  # workers speak first
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: inside, str(self._sockets / target))
        except OSError as fault:
            log.debug("A node asked for a process that is not there", target=target, reason=str(fault))
            self.leave()
            return
        if self._patience is not None:
            self._patience.cancel()
        assert self.transport is not None and inside.transport is not None
        if self.transport.is_closing():
            inside.transport.close()
            return
        self.other = inside
        rest, self._said = self._said.partition(b"\n")[2], b""
        if rest:
            self.data_received(rest)
        self.transport.resume_reading()


async def serve(door: Door, address: Address, *, opened: Callable[[Address], None] = lambda _: None) -> None:
    """Keep the door until SIGTERM or SIGINT. Raises OSError where the address can't be had."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    opened(await door.open(address))
    await stopping.wait()
    door.close()
