"""What the event loop knows: each piece immutable, each replaced as a whole, none ever locked.

The snapshot comes from PostgreSQL (:mod:`snapshot`), the view of the replicas from the supervisor (:mod:`nodes`);
the router's table is made of both whenever one of them changes.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from types import MappingProxyType

import msgspec
import structlog

from inference.gateway.arrivals import ArrivalBook
from inference.gateway.counting import RequestCounting
from inference.gateway.origin import CacheRights
from inference.gateway.route_counting import RouteCounting
from inference.gateway.samples import Samples
from inference.gateway.supervisor_link import View
from inference.protocol import Relayed, ReplicaState, Sampled, Stray, Strays
from quotas.callers import Caller
from quotas.ledger import Account
from quotas.limits import ModelLimits, PermitLimit
from registry.backends.values import Backend
from registry.catalogue import Catalogue, NodeEntry, Version
from registry.errors import ApiError, Unavailable
from registry.health.report import HealthNews
from routing.config import Routing
from routing.router import Router
from routing.sessions import Pin
from routing.table import RouteTable
from routing.targets import Targets

DATABASE_SILENCE_SECONDS = 6.0
"""The snapshot's thread asks PostgreSQL something every 2 s. A frozen server answers nothing and closes nothing, so
only the clock can tell."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What the control plane has decided."""

    catalogue: Catalogue
    callers: Mapping[str, Caller]
    """By the digest of their key."""
    cache_rights: CacheRights = CacheRights()
    limits: Mapping[str, ModelLimits] = {}
    """By model id; a model that is not named has none."""
    accounts: Mapping[str, Account] = {}
    """All windows of limits, of models, keys and tenants, by their keys."""
    permits: Mapping[str, PermitLimit] = {}
    """All limits on concurrent requests likewise, by their subjects."""
    routing: Routing = Routing()
    backends: Mapping[int, Backend] = {}
    """Elsewhere, by the primary keys of their versions."""
    nodes: Mapping[str, NodeEntry] = {}
    """By their names."""
    emergency: str = ""
    """Why an operator declared one; empty: there is none."""
    use_counts: Mapping[str, int]
    """By model id. Read more often than the catalogue, which does not change with them."""
    loaded_at: float
    """Seconds since the epoch."""


class DatabaseContact(msgspec.Struct, frozen=True, kw_only=True):
    """How we stand with PostgreSQL. Times are seconds since the epoch."""

    last: float | None
    """The last time it answered us."""
    fault: str = ""
    """Why it does not answer; empty while it does."""

    def silent(self, now: float) -> bool:
        return self.last is None or bool(self.fault) or now - self.last > DATABASE_SILENCE_SECONDS


log = structlog.get_logger(module="gateway")

_EMPTY = Catalogue(revision=0, models={}, default=None)


class GatewayState:
    def __init__(
        self,
        on_snapshot: Callable[[Snapshot], None] = lambda _: None,
        relay: Callable[[Relayed], None] = lambda _: None,
    ) -> None:
        """``on_snapshot`` is told of each new one; ``relay`` tells the other gateways."""
        self._on_snapshot = on_snapshot
        self.started_at = time.time()
        self.snapshot: Snapshot | None = None
        self.database = DatabaseContact(last=None)
        self.health = HealthNews()
        """What the last check has found, beside what the catalogue says of it."""
        self.replicas: View = MappingProxyType({})
        self.targets = Targets()
        """How the versions are doing that can answer."""
        self.router = Router(RouteTable(_EMPTY), self.targets, strayed=self._strayed)
        self._relay = relay
        self.used: dict[str, int] = {}
        """Requests by model id that PostgreSQL has not been told of yet."""
        self.counting = RequestCounting()
        self.routes = RouteCounting()
        """Both for the supervisor."""
        self.arrivals: ArrivalBook | None = None
        """Where requests are recorded. None: they are not."""
        self.samples = Samples(relay)
        self._failed: dict[int, str] = {}
        self._revision_waiters: list[tuple[int, asyncio.Future[None]]] = []

    def current(self) -> Snapshot:
        """The snapshot to serve from.

        Raises:
            Unavailable: there has been none since this process started.
        """
        if self.snapshot is None:
            raise Unavailable(
                "The server is starting: it has not read its configuration from PostgreSQL yet"
                + (f" ({self.database.fault})." if self.database.fault else "."),
                code="starting",
                retry_after=1,
            )
        return self.snapshot

    def accept_contact(self, contact: DatabaseContact) -> None:
        if contact.fault and not self.database.fault:
            log.warning("PostgreSQL can't be reached: serving what is known", reason=contact.fault)
        elif not contact.fault and self.database.fault:
            log.info("PostgreSQL answers again")
        self.database = contact

    def accept_use_counts(self, use_counts: Mapping[str, int]) -> None:
        if self.snapshot is not None and use_counts != self.snapshot.use_counts:
            self.snapshot = msgspec.structs.replace(self.snapshot, use_counts=use_counts)

    def accept_health(self, news: HealthNews) -> None:
        self.health = news

    def accept_snapshot(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._on_snapshot(snapshot)
        self._rebuild_routes()
        waiting = self._revision_waiters
        self._revision_waiters = [entry for entry in waiting if entry[0] > snapshot.catalogue.revision]
        for revision, waiter in waiting:
            if revision <= snapshot.catalogue.revision and not waiter.done():
                waiter.set_result(None)

    def accept_replicas(self, view: View) -> None:
        self.replicas = view
        failed = {pk: replica.reason for pk, replica in view.items() if replica.state is ReplicaState.FAILED}
        # Load progress comes ten times a second and moves no route.
        if failed != self._failed:
            self._failed = failed
            self._rebuild_routes()

    def accept_relayed(self, message: Relayed) -> None:
        if isinstance(message, Sampled):
            self.samples.accept(message)
            return
        now = time.monotonic()
        for stray in message.sessions:
            self.router.adopt(message.route, stray.session, stray.model, stray.used_at, now)

    def _strayed(self, route: str, sessions: Sequence[tuple[str, Pin]]) -> None:
        strays = tuple(Stray(session, pin.model, pin.used_at) for session, pin in sessions)
        self._relay(Strays(route=route, sessions=strays))

    def why_never(self, version: Version) -> str:
        """Why the registry lets a version serve no more, for requests that wait for it; empty while it does."""
        try:
            self.router.table.named(f"{version.model}@{version.version}")
        except ApiError as error:
            return error.message
        return ""

    def count_use(self, model_id: str) -> None:
        self.used[model_id] = self.used.get(model_id, 0) + 1

    def take_used(self) -> dict[str, int]:
        used, self.used = self.used, {}
        return used

    async def reached(self, revision: int, seconds: float) -> bool:
        """Wait until the snapshot holds ``revision``; False if it does not within ``seconds``."""
        if self.snapshot is not None and self.snapshot.catalogue.revision >= revision:
            return True
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (revision, waiter)
        self._revision_waiters.append(entry)
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError:
            return False
        finally:
            if entry in self._revision_waiters:
                self._revision_waiters.remove(entry)
        return True

    def _rebuild_routes(self) -> None:
        if self.snapshot is not None:
            table = RouteTable(self.snapshot.catalogue, self._failed, self.targets)
            self.targets.retain(table.versions())
            self.router.renew(table, self.snapshot.routing)


def accounts_of(limits: Mapping[str, ModelLimits], callers: Mapping[str, Caller]) -> dict[str, Account]:
    models = (account for each in limits.values() for account in each.accounts)
    return {account.key: account for account in chain(models, *(caller.accounts for caller in callers.values()))}


def permits_of(limits: Mapping[str, ModelLimits], callers: Mapping[str, Caller]) -> dict[str, PermitLimit]:
    models = (each.permit for each in limits.values() if each.permit is not None)
    return {permit.subject: permit for permit in chain(models, *(caller.permits for caller in callers.values()))}
