"""All nodes as this gateway sees them: a link to each one's supervisor, and what they say together.

The own node's supervisor is the one that this gateway tells what it counts, and whose views are kept while it is away:
it will be back, and its workers were not lost with our connection alone. What another node said is forgotten with the
link to it, for its workers can't be reached either.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import structlog

from inference.gateway.placement import Site, choose, places, told
from inference.gateway.supervisor_link import Says, SupervisorLink, View
from inference.gateway.ways import Ways
from inference.gateway.workers import Who, WorkerPool, who
from inference.protocol import CacheView, Counted, Demand, ModelSpec, Relayed, ReplicaState, ReplicaView
from registry.catalogue import NodeEntry
from routing.breaker import Breaker

log = structlog.get_logger(module="gateway")


class _Demanded:
    """A version that ``requests`` wait for."""

    __slots__ = ("requests", "size_bytes", "spec", "wanted")

    def __init__(self, spec: ModelSpec, size_bytes: int, wanted: int) -> None:
        self.spec = spec
        self.size_bytes = size_bytes
        self.wanted = wanted
        self.requests = 0


class Nodes:
    """Owned by the event loop."""

    def __init__(
        self,
        ways: Ways,
        workers: WorkerPool,
        *,
        link: Callable[["Nodes", str], SupervisorLink],
        on_change: Callable[[View], None],
    ) -> None:
        """
        Args:
            link: makes the link to the supervisor of a node, by its name.
            on_change: gets each new view of all nodes together.
        """
        self.own_node = ways.own_node
        self.view: View = MappingProxyType({})
        self._ways = ways
        self._workers = workers
        self._make_link = link
        self._on_change = on_change
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}
        self._demands: dict[int, _Demanded] = {}
        self._ready: dict[int, tuple[ReplicaView, ...]] = {}
        self._doubts: dict[Who, Breaker] = {}
        self.own = link(self, self.own_node)
        self._links = {self.own_node: self.own}
        self._leaving: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[SupervisorLink]:
        return iter(self._links.values())

    def start(self) -> None:
        self.own.start()

    async def stop(self) -> None:
        await asyncio.gather(*(link.stop() for link in self._links.values()), *self._leaving)

    @property
    def connected(self) -> bool:
        """Some supervisor can be asked."""
        return any(link.connected for link in self._links.values())

    @property
    def since(self) -> float:
        """When that became so; in seconds since the epoch."""
        return max(link.since for link in self._links.values())

    def caches(self) -> Iterator[CacheView]:
        """Of all nodes."""
        for link in self._links.values():
            if link.caches is not None:
                yield from link.caches.caches

    def relay(self, message: Relayed) -> None:
        """Tell all other gateways that listen to our supervisor, which those of other nodes do, too."""
        self.own.send(message)

    def retune(self, entries: Mapping[str, NodeEntry]) -> None:
        """These are all nodes that there are."""
        others = {name: entry.address for name, entry in entries.items() if entry.address and name != self.own_node}
        known = self._ways.addresses
        self._ways.addresses = others
        for name in known:
            if others.get(name) != known[name]:
                self._leave(name)
        for name in others.keys() - self._links.keys():
            link = self._links[name] = self._make_link(self, name)
            link.start()

    # Replicas

    def replicas(self) -> Iterator[ReplicaView]:
        """Of all nodes that can be reached."""
        for link in self._links.values():
            if link.connected or link is self.own:
                yield from link.view.values()

    def ready(self, version_pk: int) -> tuple[ReplicaView, ...]:
        """The replicas of a version that take requests."""
        return self._ready.get(version_pk, ())

    def take(self, version_pk: int, prefixes: Sequence[bytes]) -> ReplicaView | None:
        """The replica that is to have a request. None: none is ready.

        Args:
            prefixes: the chain of the prompt's beginnings (:mod:`inference.prefixes`).
        """
        ready = self._ready.get(version_pk, ())
        if len(ready) < 2:
            return ready[0] if ready else None
        return choose(
            self.trusted(version_pk) or ready,
            own_node=self.own_node,
            work=self._workers.work,
            held_tokens=lambda replica: self._workers.held_tokens(replica, prefixes),
        )

    def trusted(self, version_pk: int) -> tuple[ReplicaView, ...]:
        """Those of them that have not just failed."""
        ready = self._ready.get(version_pk, ())
        if not self._doubts:
            return ready
        now = time.monotonic()
        return tuple(each for each in ready if (doubt := self._doubts.get(who(each))) is None or doubt.lets_pass(now))

    def lost(self, replica: ReplicaView) -> None:
        """A request's connection to it failed."""
        self._doubts.setdefault(who(replica), Breaker(failures=1)).failed(time.monotonic())

    def answered(self, replica: ReplicaView) -> None:
        """It works for a request of ours: its idle timer starts again with the next report."""
        self._links[replica.node if replica.node in self._links else self.own_node].used(replica.version_pk)
        if self._doubts:
            self._doubts.pop(who(replica), None)

    # Demand

    async def demand(self, spec: ModelSpec, seconds: float, *, size_bytes: int = 0, wanted: int = 1) -> bool:
        """Ask for a version and wait until something changes about it; False after ``seconds`` without a change.

        Args:
            size_bytes: of its files.
            wanted: on how many nodes it should be.
        """
        waiting = self._demands.get(spec.version_pk)
        if waiting is None:
            waiting = self._demands[spec.version_pk] = _Demanded(spec, size_bytes, wanted)
            for node in self._places(waiting):
                self._links[node].send(Demand(spec=spec))
        waiting.requests += 1
        try:
            return await self.changed(spec.version_pk, seconds)
        finally:
            waiting.requests -= 1
            if not waiting.requests:
                del self._demands[spec.version_pk]

    async def changed(self, version_pk: int, seconds: float) -> bool:
        """Wait until something changes about a version; False after ``seconds`` without a change."""
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

    def loads(self, version_pk: int) -> bool:
        """Whether a demand for a version may lead to something: some node takes models, is about to have it, or is
        about to be served by another supervisor."""
        return any(site.view.takes or site.view.ends or site.busy_with_it for site in self._sites(version_pk))

    def demands(self, node: str) -> Iterable[Demand]:
        """What is waited for, of this node."""
        return [Demand(spec=each.spec) for each in self._demands.values() if node in self._places(each)]

    def _places(self, demanded: _Demanded) -> list[str]:
        return places(
            self._sites(demanded.spec.version_pk),
            model=demanded.spec.model,
            size_bytes=demanded.size_bytes,
            wanted=demanded.wanted,
            now=time.time(),
        )

    def _sites(self, version_pk: int) -> list[Site]:
        return [
            Site(node=link.node, own=link is self.own, view=link.about, replica=link.view.get(version_pk))
            for link in self._links.values()
            if link.connected or link is self.own
        ]

    # Links

    def says(self, node: str, take_counts: Callable[[], Counted | None]) -> Says:
        """What the link to a node's supervisor has to tell; ``take_counts`` gives what was counted for it."""
        return _Says(self, self._workers, node, take_counts)

    def link_changed(self, link: SupervisorLink, before: View) -> None:
        """A link's view or its connection is another one."""
        if link is not self._links.get(link.node):
            return
        if link is not self.own and not link.connected:
            link.forget()
        after = link.view
        changed = [pk for pk in before.keys() | after.keys() if before.get(pk) != after.get(pk)]
        self._merge(changed)
        self._on_change(self.view)
        for pk in changed:
            self._wake(pk)

    def _merge(self, changed: Iterable[int]) -> None:
        view, now = dict(self.view), time.time()
        for pk in changed:
            sites = self._sites(pk)
            if (best := told(sites, now)) is None:
                view.pop(pk, None)
            else:
                view[pk] = best
            ready = tuple(s.replica for s in sites if s.replica and s.replica.state is ReplicaState.READY)
            if ready:
                self._ready[pk] = ready
            else:
                self._ready.pop(pk, None)
        self.view = MappingProxyType(view)
        if self._doubts:
            alive = {who(each) for replicas in self._ready.values() for each in replicas}
            self._doubts = {worker: doubt for worker, doubt in self._doubts.items() if worker in alive}

    def _leave(self, name: str) -> None:
        link = self._links[name]
        leaving = asyncio.get_running_loop().create_task(link.stop())
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        link.connected = False
        self.link_changed(link, link.view)
        del self._links[name]

    def _wake(self, version_pk: int) -> None:
        for waiter in self._waiting.pop(version_pk, ()):
            if not waiter.done():
                waiter.set_result(None)


class _Says(Says):
    def __init__(self, nodes: Nodes, workers: WorkerPool, node: str, take_counts: Callable[[], Counted | None]) -> None:
        self._nodes = nodes
        self._workers = workers
        self._node = node
        self._take_counts = take_counts

    def demands(self) -> Iterable[Demand]:
        return self._nodes.demands(self._node)

    def in_use(self) -> set[int]:
        return self._workers.busy_versions(self._node)

    def take_counts(self) -> Counted | None:
        return self._take_counts()
