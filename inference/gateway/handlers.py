"""An inference request's life."""

import asyncio
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache

import msgspec
import structlog

from inference.gateway.admission import Admission
from inference.gateway.admitted import Admitted, Applicant
from inference.gateway.asgi import EVENT_STREAM, JSON, HeaderList, header_text, read_body
from inference.gateway.asking import ask_of
from inference.gateway.auth import authenticate
from inference.gateway.call import Call, ClientWatch
from inference.gateway.counting import CountedRequest
from inference.gateway.dispatch import Answer, Dispatcher, fault_of
from inference.gateway.load_teller import LoadTeller, wants_progress
from inference.gateway.mirror import Mirror
from inference.gateway.openai_shapes import Shape, error_event
from inference.gateway.origin import origin_of
from inference.gateway.parse import InferenceRequest
from inference.gateway.route_counting import RoutedRequest
from inference.gateway.state import GatewayState
from inference.gateway.tracing import Tracing
from inference.gateway.workers import StreamMessage, WorkerLost
from inference.protocol import Delta, Failed, Finished
from quotas.callers import Caller
from registry.errors import ApiError, QuotaExceeded, Unavailable
from routing.ask import Ask
from routing.decision import Decision, Explanation

router_log = structlog.get_logger(module="request_router")
log = structlog.get_logger(module="gateway")

_IGNORED_NAMES = 20
_IGNORED_LENGTH = 60

_MOST_SCORES = 20


class InferenceHandler(ABC):
    """Serves one endpoint whose work is a model's: ``parse`` reads its bodies, subclasses write its answers."""

    def __init__(
        self,
        state: GatewayState,
        admission: Admission,
        dispatcher: Dispatcher,
        parse: Callable[[bytes], InferenceRequest],
        mirror: Mirror,
        tracing: Tracing,
        *,
        node_name: str,
        require_api_key: bool,
    ) -> None:
        self._mirror = mirror
        self._tracing = tracing
        self._state = state
        self._admission = admission
        self._dispatcher = dispatcher
        self._parse = parse
        self._node_name = node_name
        self._require_api_key = require_api_key
        self._tells_scores = router_log.is_enabled_for(logging.DEBUG)
        """Every decision is explained for the log: with thousands of candidates that takes some ms each."""

    async def __call__(self, call: Call) -> None:
        call.trace = self._tracing.begin(call.headers)
        # Authenticated before parsed: a stranger's 8 MiB are not worth reading.
        caller = self._authenticate(call)
        request = _as_urgent_as_allowed(self._parse(await read_body(call.receive, call.headers)), caller)
        origin = origin_of(request, caller, self._state.current().cache_rights)
        ask = call.ask = ask_of(call, request, caller, origin, self._state.router.table)
        decision = self._route(call, ask)
        applicant = call.applicant = Applicant(
            request=request,
            ask=ask,
            decision=decision,
            caller=caller,
            origin=origin,
            request_id=call.request_id,
            trace=call.trace,
        )
        with ClientWatch(call), CountedRequest(self._state.counting, decision.version.model, call) as counted:
            admitted = call.admitted = await self._admit(call, applicant)
            if decision.copied:
                self._mirror.copy(applicant)
            with admitted, RoutedRequest(self._state.routes, decision, admitted, self._state.arrivals) as routed:
                begun = call.begun = routed.answer = await self._dispatcher.dispatch(
                    admitted, teller=self._teller(call, admitted)
                )
                counted.begun(begun, admitted.waited)
                self._state.count_use(begun.version.model)
                await self._answer(call, admitted, begun)

    def _teller(self, call: Call, admitted: Admitted) -> LoadTeller | None:
        """For a stream whose client wants to know how the load goes that it may have to wait for."""
        if not (admitted.request.stream and wants_progress(call)):
            return None
        decision = admitted.decision
        return LoadTeller(call, [(b"x-nopenai-strategy", header_text(decision.strategy)), _routing_us(decision)])

    @abstractmethod
    async def _answer(self, call: Call, admitted: Admitted, begun: Answer) -> None: ...

    def _authenticate(self, call: Call) -> Caller | None:
        callers = self._state.current().callers
        return authenticate(call.headers, callers, required=self._require_api_key, now=time.time())

    def _route(self, call: Call, ask: Ask) -> Decision:
        sampled = explained = self._state.samples.explain_if_due(self._state.router, ask)
        if self._tells_scores and explained is None:  # before the decision is made: it changes them
            explained = self._state.router.explain(ask)
        began = time.perf_counter()
        try:
            decision = self._state.router.route(ask)
        except Unavailable:
            self._state.routes.refused(ask.model or self._state.router.table.default, self._state.router.strategy(ask))
            raise
        microseconds = (time.perf_counter() - began) * 1e6
        if self._tells_scores and explained is not None:
            router_log.debug(
                "Routed request to model",
                model_id=decision.version.model,
                strategy=decision.strategy,
                routing_time_us=round(microseconds, 2),
                candidates=decision.candidates,
                scores=_scores(explained),
                **call.ids,
            )
        decision = msgspec.structs.replace(decision, microseconds=microseconds)
        self._state.routes.decided(decision)
        if sampled is not None:
            self._state.samples.add(sampled, decision, call.request_id)
        return decision

    async def _admit(self, call: Call, applicant: Applicant) -> Admitted:
        try:
            admitted = await self._admission.admit(applicant)
        except BaseException as fault:
            call.more_headers = self._admission.headers(applicant.model, applicant.caller, applicant.model)
            if isinstance(fault, QuotaExceeded):
                self._admission.refused(applicant, fault)
            raise
        call.more_headers = self._admission.headers(admitted.applicant.model, applicant.caller, applicant.model)
        if admitted.ways:
            call.more_headers.append((b"x-nopenai-degraded", ", ".join(admitted.ways).encode()))
        return admitted

    def _headers(self, admitted: Admitted, begun: Answer, queue_seconds: float) -> HeaderList:
        request, decision = admitted.request, admitted.decision
        headers = [
            *_version_headers(begun.version.model, begun.version.version, decision.strategy),
            (b"x-nopenai-replica", _replica_name(begun.node or self._node_name, begun.replica)),
            _routing_us(decision),
            (b"x-nopenai-queue-ms", b"%.1f" % ((admitted.waited + queue_seconds) * 1000)),
        ]
        if request.ignored:
            headers.append((b"x-nopenai-ignored", _ignored(request.ignored)))
        return headers


class TextHandler(InferenceHandler):
    """Answers with text, streamed or not: ``shape`` says how it looks."""

    def __init__(
        self,
        state: GatewayState,
        admission: Admission,
        dispatcher: Dispatcher,
        parse: Callable[[bytes], InferenceRequest],
        mirror: Mirror,
        tracing: Tracing,
        shape: type[Shape],
        *,
        node_name: str,
        require_api_key: bool,
    ) -> None:
        super().__init__(
            state, admission, dispatcher, parse, mirror, tracing, node_name=node_name, require_api_key=require_api_key
        )
        self._shape = shape

    async def _answer(self, call: Call, admitted: Admitted, begun: Answer) -> None:
        await (self._stream if admitted.request.stream else self._whole)(call, admitted, begun)

    async def _whole(self, call: Call, admitted: Admitted, begun: Answer) -> None:
        finished = begun.messages[-1]
        assert isinstance(finished, Finished)
        headers = self._headers(admitted, begun, begun.queue_seconds + finished.queue_seconds)
        headers += (JSON, (b"x-nopenai-cached-tokens", b"%d" % finished.cached_tokens))
        await call.answer(200, headers, self._shape_of(call, admitted.request, begun).whole(begun.messages))

    async def _stream(self, call: Call, admitted: Admitted, begun: Answer) -> None:
        shape = self._shape_of(call, admitted.request, begun)
        headers = self._headers(admitted, begun, begun.queue_seconds) + EVENT_STREAM
        if isinstance(begun.messages[-1], Finished):  # else it is known at the end only, and told with the usage
            headers.append((b"x-nopenai-cached-tokens", b"%d" % begun.messages[-1].cached_tokens))
        if not call.started:  # else by a comment on its load
            await call.start(200, headers)
        call.events_open = False
        events, messages = shape.opening(), begun.messages
        try:
            while True:
                events += _events(shape, messages)
                if begun.stream.ended and _is_last(messages[-1]):
                    if isinstance(messages[-1], Failed):
                        self._count_broken(admitted, fault_of(messages[-1]))
                    break
                await call.body(events, more=True)
                events, messages = b"", await begun.stream.next()
                begun.messages = messages
        except WorkerLost as lost:
            events = error_event(self._count_broken(admitted, _lost_amid(call, begun, lost)))
        except asyncio.CancelledError:
            if call.gone:
                raise
            # The server's graceful time is over.
            error = Unavailable("The server is shutting down: ask again.", code="shutting_down")
            events = error_event(self._count_broken(admitted, error))
        finally:
            begun.stream.cancel()
        await call.body(events)

    def _count_broken(self, admitted: Admitted, error: ApiError) -> ApiError:
        """A stream that ends with an error, of which the client is told in it."""
        self._state.counting.of(admitted.applicant.model).failed(error)
        admitted.fail(error)
        return error

    def _shape_of(self, call: Call, request: InferenceRequest, begun: Answer) -> Shape:
        version = begun.version
        created = int(time.time())
        return self._shape(
            call.hex,
            created,
            version.model,
            version.version,
            include_usage=request.include_usage,
            choices=request.choices,
        )


def _scores(explained: Explanation) -> dict[str, float | None]:
    """Of the best candidates. None: it comes after all that have a number."""
    best = explained.candidates[:_MOST_SCORES]
    return {each.model: round(each.score, 3) if math.isfinite(each.score) else None for each in best}


def _as_urgent_as_allowed(request: InferenceRequest, caller: Caller | None) -> InferenceRequest:
    if caller is None or request.priority <= caller.max_priority:
        return request
    return msgspec.structs.replace(request, priority=caller.max_priority)


def _events(shape: Shape, messages: Sequence[StreamMessage]) -> bytes:
    """What one step of the worker makes of the stream, for a single write."""
    events = b""
    for message in messages:
        if isinstance(message, Delta):
            events += shape.delta(message)
        elif isinstance(message, Finished):
            events += shape.closing(message)
        elif isinstance(message, Failed):
            events += error_event(fault_of(message))
    return events


def _is_last(message: StreamMessage) -> bool:
    return isinstance(message, Finished | Failed)


def _lost_amid(call: Call, begun: Answer, lost: WorkerLost) -> ApiError:
    log.warning(
        "A worker was lost in mid-stream",
        model_id=begun.version.model,
        reason=str(lost),
        **call.ids,
    )
    return Unavailable(f"The answer breaks off here: {lost}. Ask again.", code="worker_failed")


@lru_cache(maxsize=1024)
def _version_headers(model: str, version: str, strategy: str) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"x-nopenai-model", header_text(model)),
        (b"x-nopenai-version", header_text(version)),
        (b"x-nopenai-strategy", header_text(strategy)),
    )


def _routing_us(decision: Decision) -> tuple[bytes, bytes]:
    return b"x-nopenai-routing-us", b"%.2f" % decision.microseconds


@lru_cache(maxsize=256)
def _replica_name(node_name: str, replica: str) -> bytes:
    return header_text(f"{node_name}/{replica}")


def _ignored(names: Sequence[str]) -> bytes:
    """Clients choose these names: whatever they are, they make one short header."""
    shown = [name[:_IGNORED_LENGTH].replace(",", "%2C") for name in names[:_IGNORED_NAMES]]
    return header_text(", ".join([*shown, "…"] if len(names) > _IGNORED_NAMES else shown))
