"""The backends that there are, and a request's way to one of them."""

import asyncio
from collections.abc import Callable, Mapping, Set

import aiohttp
from aiohttp.abc import AbstractResolver

from inference.gateway.remotes.exchange import Exchange, Patience
from inference.gateway.remotes.site import Site
from inference.gateway.workers import Listener, Meter, Stream, WorkerLost
from inference.protocol import Embed, Embedded, Finished, Generate, Grant
from registry.backends.addresses import Policy
from registry.backends.client import open_session
from registry.backends.values import Backend
from registry.catalogue import Version

REPLICA_NAME = "remote"


class Remotes:
    """Owned by the event loop."""

    def __init__(
        self,
        policy: Policy,
        patience: Patience,
        count: Callable[[str, Finished | Embedded], None],
        resolver: AbstractResolver | None = None,
    ) -> None:
        """
        Args:
            count: is told of each answer, with the model's id.
            resolver: finds the addresses of names; the system's if None.
        """
        self._policy = policy
        self._patience = patience
        self._count = count
        self._resolver = resolver
        self._backends: Mapping[int, Backend] = {}
        self._sites: dict[int, Site] = {}
        self._retired: set[Site] = set()

    def retune(self, backends: Mapping[int, Backend]) -> None:
        """These are all that there are now, by their versions' primary keys. Requests under way end as they began."""
        self._backends = backends
        for pk, site in list(self._sites.items()):
            if backends.get(pk) != site.backend:
                self._retire(self._sites.pop(pk))

    def connection(self, version: Version, given: Set[str]) -> "RemoteConnection":
        """For one request, of which the client has ``given`` the fields of these names.

        Raises:
            WorkerLost: its backend is known no more.
        """
        site = self._sites.get(version.pk)
        if site is None:
            backend = self._backends.get(version.pk)
            if backend is None:
                raise WorkerLost("its backend is not known any more")
            site = self._sites[version.pk] = Site(backend, version.model, self._open, self._count)
        return RemoteConnection(site, given, self._patience)

    async def close(self) -> None:
        for site in self._sites.values():
            self._retire(site)
        self._sites.clear()
        for site in list(self._retired):
            await site.close()
        self._retired.clear()

    def _open(self, backend: Backend) -> aiohttp.ClientSession:
        return open_session(backend, self._policy, connect_seconds=self._patience.connect, resolver=self._resolver)

    def _retire(self, site: Site) -> None:
        self._retired = {each for each in self._retired if not each.closed}
        self._retired.add(site)
        site.retire()


class RemoteConnection:
    """One request's way to a backend: for the dispatcher a connection like a worker's. (A request has several parts
    where it has several prompts.)"""

    worker_pid = 0
    replica_name = REPLICA_NAME

    def __init__(self, site: Site, given: Set[str], patience: Patience) -> None:
        self.loop = asyncio.get_running_loop()
        self._site = site
        self._given = given
        self._patience = patience
        self._exchanges: dict[int, Exchange] = {}
        self._last_id = 0

    def next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def begin(self, message: Generate | Embed, meter: Meter | None = None) -> Stream:
        stream = Stream(self, message.id)
        self.begin_for(stream, message, meter)
        return stream

    def begin_for(self, listener: Listener, message: Generate | Embed, meter: Meter | None = None) -> None:
        exchange = Exchange(self._site, self, message, listener, meter, given=self._given, patience=self._patience)
        self._exchanges[message.id] = exchange
        exchange.start()

    def grant(self, grant: Grant) -> None:
        if exchange := self._exchanges.get(grant.id):
            exchange.granted(grant)

    def abandon(self, stream_id: int) -> None:
        if exchange := self._exchanges.get(stream_id):
            exchange.cancel()
