"""How this gateway reaches the processes of nodes: by Unix sockets here, through a node's door elsewhere."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from inference.gateway.supervisor_link import Streams
from inference.nodes.passage import Passage
from inference.protocol import ReplicaView
from registry.nodes.doors import Address

P = TypeVar("P", bound=asyncio.Protocol)


class Ways:
    def __init__(self, own_node: str, supervisor_socket: Path, passage: Passage | None) -> None:
        """``passage`` leads through doors. None: there is no other node."""
        self.own_node = own_node
        self.addresses: Mapping[str, Address] = {}
        """Of the other nodes' doors."""
        self._supervisor_socket = supervisor_socket
        self._passage = passage

    async def supervisor(self, node: str) -> Streams:
        """Raises OSError."""
        if node == self.own_node:
            return await asyncio.open_unix_connection(self._supervisor_socket)
        passage, address = self._through(node)
        return await passage.open_streams(node, address, self._supervisor_socket.name)

    async def worker(self, replica: ReplicaView, factory: Callable[[], P]) -> P:
        """Raises OSError."""
        socket = replica.socket or ""
        if replica.node in (self.own_node, ""):
            _, protocol = await asyncio.get_running_loop().create_unix_connection(factory, socket)
            return protocol
        passage, address = self._through(replica.node)
        return await passage.connect(replica.node, address, Path(socket).name, factory)

    def _through(self, node: str) -> tuple[Passage, Address]:
        address = self.addresses.get(node)
        if self._passage is None or address is None:
            raise OSError(f"no way to node '{node}' is known")
        return self._passage, address
