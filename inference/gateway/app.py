"""The gateway as an ASGI application: who serves which path, and how an error becomes an answer."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from zoneinfo import ZoneInfo

import msgspec
import structlog

from inference.gateway import parse
from inference.gateway.admission import Admission
from inference.gateway.arrivals import ArrivalBook, ArrivalFeed
from inference.gateway.asgi import JSON, ClientGone, HeaderList, Receive, Scope, Send, discard_body
from inference.gateway.auth import authenticate, refuse_key_in_url, require_role, ticket_operator
from inference.gateway.cache_api import CacheApi
from inference.gateway.call import Call
from inference.gateway.degradation import Degradation
from inference.gateway.dispatch import LOAD_WAIT_SECONDS, MAX_WAITING, Dispatcher
from inference.gateway.embeddings_api import EmbeddingsHandler
from inference.gateway.handlers import TextHandler
from inference.gateway.health_api import HealthApi
from inference.gateway.metrics_api import MetricsApi
from inference.gateway.mirror import Mirror
from inference.gateway.models_api import ModelsApi
from inference.gateway.nodes import Nodes
from inference.gateway.openai_shapes import ChatShape, CompletionShape, error_body, error_event
from inference.gateway.permits import Permits
from inference.gateway.promises import LeaseFeed, Promises
from inference.gateway.proxy import WebProxy
from inference.gateway.quotas_api import QuotasApi
from inference.gateway.remotes.exchange import Patience
from inference.gateway.remotes.pool import Remotes
from inference.gateway.rerouting import Rerouting
from inference.gateway.routing_api import RoutingApi
from inference.gateway.state import GatewayState, Snapshot
from inference.gateway.supervisor_link import SupervisorLink, View
from inference.gateway.telemetry import Telemetry
from inference.gateway.tracing import Tracing
from inference.gateway.usage import Counts, UsageBook
from inference.gateway.ways import Ways
from inference.gateway.workers import WorkerPool
from inference.nodes.passage import Passage
from inference.protocol import Counted, GatewayCounts
from inference.traces.sampling import Sampler
from inference.traces.spans import Sink
from quotas.callers import Role
from registry.backends.addresses import Policy
from registry.errors import ApiError, BodyTooLarge, MethodNotAllowed, ServerError, Unauthorized, Unavailable

log = structlog.get_logger(module="gateway")

_UPKEEP_SECONDS = 2.0
_ACCOUNTS_SECONDS = 1.0
_NOTHING_COUNTED = Counted(models={})
_LAST_WORDS_SECONDS = 0.5
_START_SECONDS = 3.0
"""So long the first snapshot is waited for before connections are taken. Without PostgreSQL they are taken without."""

Handler = Callable[[Call], Awaitable[None]]
Route = tuple[tuple[str, ...], Handler]
"""The methods that a path takes, and who serves it."""

_READ = ("GET", "HEAD")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    node_name: str
    supervisor_socket: Path
    web_socket: Path
    require_api_key: bool
    profile: bool = False
    """Whether detailed metrics tell how long each stage takes."""
    build: Mapping[str, str] = field(default_factory=dict)
    """What this server is made of, for its metrics: names and versions."""
    ticket_key: bytes = b""
    """Signs the tickets of operators who ask through the web process. Empty: none is taken."""
    time_zone: str = "UTC"
    """Where days begin at midnight, for limits."""
    load_wait_seconds: float = LOAD_WAIT_SECONDS
    max_waiting: int = MAX_WAITING
    remote_policy: Policy = field(default_factory=Policy)
    """Which addresses backends elsewhere may have."""
    remote_patience: Patience = field(default_factory=Patience)


class SnapshotFeed(Protocol):
    """What keeps a :class:`GatewayState` fresh; :class:`inference.gateway.snapshot.SnapshotThread`."""

    def start(self) -> None: ...
    async def stop(self) -> None: ...
    def wake(self) -> None: ...
    def hang_up(self) -> None: ...
    def add_use_counts(self, counts: dict[str, int]) -> None: ...


class UsageFeed(Protocol):
    """What writes usage: :class:`inference.gateway.usage_thread.UsageThread`."""

    def start(self) -> None: ...
    def write(self, counts: Counts) -> None: ...
    async def stop(self) -> None: ...


class WrongMethod(MethodNotAllowed):
    """With the methods that the path takes, for the ``Allow`` header."""

    def __init__(self, method: str, allowed: tuple[str, ...]) -> None:
        super().__init__(f"This path takes {' or '.join(allowed)}, not {method}.")
        self.allowed = allowed


class Gateway:
    """One gateway process. Everything it owns starts and stops with ASGI's lifespan."""

    def __init__(
        self,
        config: GatewayConfig,
        feed: Callable[[GatewayState], SnapshotFeed],
        leases: LeaseFeed,
        usage: UsageFeed,
        arrivals: ArrivalFeed | None = None,
        sampler: Sampler | None = None,
        spans: Sink | None = None,
        passage: Passage | None = None,
    ) -> None:
        """
        Args:
            arrivals: writes what requests came. None: they are not recorded.
            sampler: which requests are traced. None: none is.
            spans: where their spans go.
            passage: leads to other nodes. None: there are none.
        """
        zone = ZoneInfo(config.time_zone)
        self._config = config
        self.state = GatewayState(self._retune, lambda message: self.nodes.relay(message))
        self._feed = feed(self.state)
        self.promises = Promises(leases, zone)
        self.permits = Permits()
        self._usage = UsageBook()
        self._usage_feed = usage
        self._arrival_feed = arrivals
        if arrivals is not None:
            self.state.arrivals = ArrivalBook()
        self.degradation = Degradation(self.promises, Rerouting(self.state.router), lambda: self.nodes.own.pressure)
        self.admission = Admission(
            self.promises, self.permits, self._usage, zone, self.degradation, profile=config.profile
        )
        self.spans = spans
        self._spans_counted = 0, 0
        self._tracing = Tracing(sampler, spans)
        self.telemetry = Telemetry(
            self.state.targets, self.state.router.refresh, lambda version_pk: self.workers.of(version_pk)
        )
        ways = self._ways = Ways(config.node_name, config.supervisor_socket, passage)
        self.workers = WorkerPool(ways, self.telemetry.heard)
        self.nodes = Nodes(ways, self.workers, link=self._link, on_change=self._replicas_changed)
        self.remotes = Remotes(config.remote_policy, config.remote_patience, self.state.counting.served_elsewhere)
        self.dispatcher = Dispatcher(
            self.nodes,
            self.workers,
            self.remotes,
            self.state.router,
            why_never=self.state.why_never,
            load_wait_seconds=config.load_wait_seconds,
            max_waiting=config.max_waiting,
        )
        self.mirror = Mirror(self.admission, self.dispatcher, self.state.routes)
        self._proxy = WebProxy(config.web_socket, self._reached)
        self._models = ModelsApi(self.state)
        self._health = HealthApi(self.state, self.nodes, self.promises, self.degradation)
        self._caches = CacheApi(
            self.state, self.nodes.own, self.workers, node_name=config.node_name, profile=config.profile
        )
        self._quotas = QuotasApi(self.state, self.degradation, self.promises, self.nodes.own, profile=config.profile)
        self._routing = RoutingApi(self.state, self.nodes.own, profile=config.profile)
        self._metrics = MetricsApi(self.state, self.nodes.own, self.workers, self._quotas, config.build)
        self._upkeep: list[asyncio.Task[None]] = []
        self.routes = self._make_routes()
        """What is answered here, by the path; all else is the web process's."""
        self.routes_below = self._make_routes_below()
        """Of paths that go on with a model's id, by what stands before it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._serve(Call(scope, receive, send))
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await send({"type": "websocket.close"})

    async def _serve(self, call: Call) -> None:
        try:
            refuse_key_in_url(call.path, call.scope["query_string"])
            await self._handler(call)(call)
        except ApiError as error:
            call.error = error
            _log_refusal(call, error)
            await _answer_error(call, error)
        except ClientGone:
            pass
        except asyncio.CancelledError:
            if not call.gone:
                await _say_goodbye(call)
        except Exception:  # a fault of ours: nobody above would tell the client in OpenAI's form
            log.exception("A request failed in the gateway", path=call.path, **call.ids)
            call.error = ServerError("The server failed at this request; its log says more.")
            await _answer_error(call, call.error)
        finally:
            if call.trace is not None:
                self._tracing.ended(call, call.trace)

    # Paths

    def _make_routes(self) -> Mapping[str, Route]:
        get, post = _READ, ("POST",)
        return {
            "/v1/chat/completions": (post, self._inference(parse.chat, ChatShape)),
            "/v1/completions": (post, self._inference(parse.completion, CompletionShape)),
            "/v1/embeddings": (post, self._embeddings()),
            "/v1/models": (get, self._guarded(self._models.list_models)),
            "/cache/stats": (get, self._guarded(self._caches.stats, Role.OPERATOR)),
            "/metrics": (get, self._guarded(self._metrics.metrics, Role.OPERATOR)),
            "/metrics/cache": (get, self._guarded(self._caches.metrics, Role.OPERATOR)),
            "/metrics/routing": (get, self._guarded(self._routing.metrics, Role.OPERATOR)),
            "/routing/stats": (get, self._guarded(self._routing.stats, Role.OPERATOR)),
            "/routing/explain": (post, self._guarded(self._routing.explain, Role.OPERATOR)),
            "/metrics/quotas": (get, self._guarded(self._quotas.metrics, Role.OPERATOR)),
            "/health": (get, self._health.overall),
            "/health/live": (get, self._health.live),
            "/health/ready": (get, self._health.ready),
        }

    def _make_routes_below(self) -> Mapping[str, Route]:
        return {
            "/v1/models/": (_READ, self._guarded(self._models.one)),
            "/health/model/": (_READ, self._models.health),
        }

    def _handler(self, call: Call) -> Handler:
        route = self.routes.get(call.path)
        if route is not None:
            methods, handler = route
            if call.method not in methods:
                raise WrongMethod(call.method, methods)
            return handler
        for start, (methods, handler) in self.routes_below.items():
            if call.path.startswith(start) and call.method in methods and self._models.describes(call.path):
                return handler
        return self._proxy

    def _inference(
        self, parser: Callable[[bytes], parse.InferenceRequest], shape: type[ChatShape] | type[CompletionShape]
    ) -> Handler:
        return TextHandler(
            self.state,
            self.admission,
            self.dispatcher,
            parser,
            self.mirror,
            self._tracing,
            shape,
            node_name=self._config.node_name,
            require_api_key=self._config.require_api_key,
        )

    def _embeddings(self) -> Handler:
        return EmbeddingsHandler(
            self.state,
            self.admission,
            self.dispatcher,
            parse.embedding,
            self.mirror,
            self._tracing,
            node_name=self._config.node_name,
            require_api_key=self._config.require_api_key,
        )

    def _guarded(self, handler: Handler, role: Role = Role.INFERENCE) -> Handler:
        """Only for callers with a key of this role, where keys are required. (Probes are open; the web process guards
        itself.)"""

        async def guarded(call: Call) -> None:
            now = time.time()
            caller = ticket_operator(call.headers, self._config.ticket_key, now) if self._config.ticket_key else None
            if caller is None:
                callers = self.state.current().callers
                caller = authenticate(call.headers, callers, required=self._config.require_api_key, now=now)
            require_role(caller, role)
            call.caller = caller
            await handler(call)

        return guarded

    # Life

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()  # startup
        await self._proxy.start()
        self.promises.start()
        self._usage_feed.start()
        if self._arrival_feed is not None:
            self._arrival_feed.start()
        if self.spans is not None:
            self.spans.start()
        self._feed.start()
        self.nodes.start()
        # Others of this node may be ready: who asks after they said so should find us ready, too.
        await self.state.reached(0, _START_SECONDS)
        self._upkeep = [asyncio.create_task(self._keep_up()), asyncio.create_task(self._keep_accounts())]
        await send({"type": "lifespan.startup.complete"})
        await receive()  # shutdown
        await self._stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _stop(self) -> None:
        for task in self._upkeep:
            task.cancel()
        if self._arrival_feed is not None:
            self._record_arrivals(self._arrival_feed)
        self.mirror.close()
        self.workers.close()
        await self.remotes.close()
        self._usage_feed.write(self._usage.take())
        await asyncio.gather(self.promises.stop(), self._usage_feed.stop())
        if self._arrival_feed is not None:
            await self._arrival_feed.stop()
        if self.spans is not None:
            await self.spans.stop()
        await self.nodes.stop()
        await self._proxy.stop()
        self._feed.add_use_counts(self.state.take_used())
        await self._feed.stop()

    async def _keep_up(self) -> None:
        """What must happen every few seconds whether requests come or not."""
        while True:
            await asyncio.sleep(_UPKEEP_SECONDS)
            self.workers.follow(self.nodes.replicas())
            if self.state.used:
                self._feed.add_use_counts(self.state.take_used())
            if self.state.database.silent(time.time()) and not self.state.database.fault:
                self._feed.hang_up()

    async def _keep_accounts(self) -> None:
        """What others are told every second: what is spent and promised, which permits lie idle, what was used."""
        while True:
            await asyncio.sleep(_ACCOUNTS_SECONDS)
            self.promises.keep_up()
            self.state.router.look_at_breakers(self.state.targets, time.monotonic())
            self.telemetry.keep_up(self.nodes.view, self.nodes.caches(), self.degradation.standing)
            self.permits.keep_up()
            self._usage_feed.write(self._usage.take())
            if self._arrival_feed is not None:
                self._record_arrivals(self._arrival_feed)

    def _record_arrivals(self, feed: ArrivalFeed) -> None:
        book, snapshot = self.state.arrivals, self.state.snapshot
        if book is None or snapshot is None:
            return
        book.look(snapshot.catalogue, snapshot.routing, self.state.targets, self.workers, self.nodes.caches())
        feed.write(book.take())

    def _link(self, nodes: Nodes, node: str) -> SupervisorLink:
        own = node == nodes.own_node
        return SupervisorLink(
            node,
            lambda: self._ways.supervisor(node),
            nodes.says(node, self._take_counts if own else lambda: self._take_served(node)),
            on_change=nodes.link_changed,
            permits=self.permits if own else None,
            on_relayed=self.state.accept_relayed,
        )

    def _take_counts(self) -> Counted | None:
        counted = Counted(
            models=self.state.counting.take(),
            gateway=self._with_spans(self.admission.take_counts()),
            routing=self.state.routes.take(),
            served=self.dispatcher.served(self._config.node_name).take() | self.dispatcher.served("").take(),
        )
        return counted if counted != _NOTHING_COUNTED else None

    def _take_served(self, node: str) -> Counted | None:
        """All that interests the supervisor of another node."""
        served = self.dispatcher.served(node).take()
        return Counted(models={}, served=served) if served else None

    def _with_spans(self, counts: GatewayCounts) -> GatewayCounts:
        if self.spans is None:
            return counts
        exported, dropped = self._spans_counted
        self._spans_counted = self.spans.exported, self.spans.dropped
        return msgspec.structs.replace(
            counts, spans_exported=self.spans.exported - exported, spans_dropped=self.spans.dropped - dropped
        )

    def _retune(self, snapshot: Snapshot) -> None:
        self.promises.retune(snapshot.limits, snapshot.accounts)
        self.permits.retune(snapshot.catalogue.revision, snapshot.permits)
        self.admission.retune(snapshot.limits)
        self.remotes.retune(snapshot.backends)
        self.degradation.declared = snapshot.emergency
        self.nodes.retune(snapshot.nodes)

    def _replicas_changed(self, view: View) -> None:
        self.telemetry.accept_replicas(view)
        self.state.accept_replicas(view)
        self.workers.retain(self.nodes.replicas())
        self.workers.follow(self.nodes.replicas())

    async def _reached(self, revision: int, seconds: float) -> bool:
        self._feed.wake()
        return await self.state.reached(revision, seconds)


def _log_refusal(call: Call, error: ApiError) -> None:
    probe = call.path.startswith("/health")  # asked again and again while the server starts
    (log.debug if probe else log.info)(
        "Refused a request",
        method=call.method,
        path=call.path,
        status=error.status,
        code=error.code,
        reason=error.message,
        **call.ids,
    )


async def _answer_error(call: Call, error: ApiError) -> None:
    if call.events_open:
        call.events_open = False
        await call.body(error_event(error))
        return
    if call.started:
        return  # the server sees an unfinished answer and closes the connection
    headers: HeaderList = [JSON]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after))
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, WrongMethod):
        headers.append((b"allow", ", ".join(error.allowed).encode()))
    if isinstance(error, BodyTooLarge):
        await _refuse_body(call, error, headers)
    else:
        await call.answer(error.status, headers, error_body(error))


async def _refuse_body(call: Call, error: ApiError, headers: HeaderList) -> None:
    """Answer at once, then let the sender finish within bounds before the connection is closed."""
    body = error_body(error)
    await call.start(error.status, [*headers, (b"content-length", b"%d" % len(body)), (b"connection", b"close")])
    await call.body(body, more=True)
    if call.headers.get(b"expect", b"").lower() != b"100-continue":  # such a client waits for leave to send
        await discard_body(call.receive)
    await call.body(b"")


async def _say_goodbye(call: Call) -> None:
    """Cancelled by the server, whose graceful time is over. A stream has said so itself."""
    error = Unavailable("The server is shutting down: ask again.", code="shutting_down", retry_after=1)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LAST_WORDS_SECONDS):
            await _answer_error(call, error)
