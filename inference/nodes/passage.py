"""Through another node's door: a connection to a process there, as if its Unix socket were here."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar, cast

from inference.nodes.identity import Identity, host_name
from registry.nodes.doors import Address

P = TypeVar("P", bound=asyncio.Protocol)

_CONNECT_SECONDS = 3.0
_SILENCE_SECONDS = 3
"""A machine that does not acknowledge what it is sent, or that we are here, for so long is given up."""


class Passage:
    """Of one process."""

    def __init__(self, identity: Identity) -> None:
        self._context: ssl.SSLContext = identity.client()

    async def connect(self, node: str, address: Address, target: str, factory: Callable[[], P]) -> P:
        """The protocol of ``factory``, connected to ``target`` of a node.

        Args:
            target: the name of a socket, as :mod:`inference.nodes.door` lets one ask for it.

        Raises:
            OSError: nobody is there, or somebody else than ``node``.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                transport, protocol = await loop.create_connection(
                    factory, address.host, address.port, ssl=self._context, server_hostname=host_name(node)
                )
        except TimeoutError as fault:
            raise OSError(f"no answer from {address} within {_CONNECT_SECONDS:g} s") from fault
        except ssl.SSLCertVerificationError as fault:
            raise OSError(
                f"who answers at {address} is not node '{node}', or has another secret key (all nodes need the same "
                f"'secret_key' file in their data directories): {fault.verify_message}"
            ) from fault
        watch_peer(transport)
        transport.write(target.encode() + b"\n")
        return protocol

    async def open_streams(
        self, node: str, address: Address, target: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The same as streams."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        protocol = await self.connect(node, address, target, lambda: _Streams(reader, loop=loop))
        return reader, asyncio.StreamWriter(protocol.made, protocol, reader, loop)


class _Streams(asyncio.StreamReaderProtocol):
    """As of ``asyncio.open_connection``, which names its transport only after it has been made."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.made = cast(asyncio.Transport, transport)


def watch_peer(transport: asyncio.BaseTransport) -> None:
    """Have the kernel notice within seconds that the other machine is gone, and send without delay."""
    connection: socket.socket = transport.get_extra_info("socket")
    for level, option, value in (
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _SILENCE_SECONDS),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE_SECONDS * 1000),
    ):
        connection.setsockopt(level, option, value)
