"""From a decision to a worker's answer whose first message is in hand.

Nothing has been sent to the client yet when :meth:`Dispatcher.dispatch` returns, so everything that fails before can
still be retried, elsewhere if the decision has other candidates, or answered with a status.
"""

import math
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType

import msgspec
import structlog

from inference.gateway.admitted import Admitted, Applicant, PartMeter
from inference.gateway.joint import begin_joint
from inference.gateway.load_teller import EVERY_SECONDS, LoadTeller, retry_after
from inference.gateway.nodes import Nodes
from inference.gateway.origin import prompt_prefixes
from inference.gateway.remotes.pool import Remotes
from inference.gateway.remotes.refusals import RATE_LIMITED
from inference.gateway.served import ServedCounting
from inference.gateway.workers import Connection, Stream, StreamMessage, WorkerLost, WorkerPool
from inference.protocol import Accepted, Embed, Failed, Finished, Generate, ReplicaState, ReplicaView
from inference.specs import model_spec
from registry.catalogue import Version
from registry.errors import ApiError, ContextLengthExceeded, InvalidRequest, QuotaExceeded, Unavailable
from routing.router import Router
from routing.targets import Target

log = structlog.get_logger(module="gateway")

LOAD_WAIT_SECONDS = 120.0
MAX_WAITING = 256
"""Requests that wait for one version to load, in this process."""

SUPERVISOR_PATIENCE_SECONDS = 10.0
"""How long the supervisor may be away, while it is restarted, before those who wait for a load are sent away."""

LONGEST_PAUSE_SECONDS = 10.0
"""Between two attempts, ± half, however often the pause was doubled."""

FAILURE_PATIENCE_SECONDS = 5.0
"""A request waits out a failed replica's back-off if it ends within this time, else it is answered at once."""

_RETRY_SECONDS = 10
"""After which a load may be done of which nothing is known."""

_MEMORY_SECONDS = 60
"""Only an operator can change that a model does not fit."""

_CLOSED = "No node loads models now: all are cordoned or being drained. An operator can open one."
_CLOSED_SECONDS = 30

_LEAST_QUEUE_SECONDS = 1.0
"""A worker may keep a request waiting for what a load has left of the patience, and at least so long."""

_HEDGE_EVERY_SECONDS = 1.0
"""Who would have taken another candidate, had there been one, looks again."""

_SAME_MOMENT_SECONDS = 0.01
"""The supervisor tells times of its monotonic clock in seconds since the epoch; between two views they move by µs."""


class NotReady(Unavailable):
    """No replica of this version will take the request in time."""

    default_code = "model_loading"


class _ReadyElsewhere(Exception):
    """This version is still being loaded, and another one need not be."""

    def __init__(self, version: Version) -> None:
        super().__init__()
        self.version = version


class _Hedge(msgspec.Struct, frozen=True):
    """What a request does that waits for a load."""

    at: float
    """Of ``time.perf_counter``: from then on it is answered elsewhere, if it can be."""
    find: Callable[[], Version | None]
    """Where."""

    def seconds(self, now: float) -> float:
        """Until it looks next."""
        return self.at - now if now < self.at else _HEDGE_EVERY_SECONDS


class BackendFault(NotReady):
    """A backend elsewhere can't serve the request, or none at all, and did not begin to. Another may."""


class BackendBusy(QuotaExceeded):
    """A backend elsewhere refuses for a limit of its own. Another may not."""


class WorkerFault(ApiError):
    """The worker took the request and could not serve it."""

    default_code = "worker_failed"


class Answer(msgspec.Struct):
    """A worker's answer, begun."""

    version: Version
    node: str
    """Where. Empty: not on any of ours."""
    replica: str
    """Which one, on its node."""
    stream: Stream
    messages: list[StreamMessage]
    """For a stream the messages that came last, at first those with the first text; else all of them."""
    target: Target
    """Its version's, which has one request less when this one has ended."""
    first_token_seconds: float
    """From then to the first token, as the worker says where the answer came whole."""
    queue_seconds: float
    """From the decision to the moment the worker that answered was asked."""
    served: ServedCounting
    """Where its end is counted."""

    def over(self) -> None:
        """Its client waits for it no more."""
        self.target.ended()
        self.served.ended(self.version.pk, self.stream, self.messages[-1])
        if isinstance(finished := self.messages[-1], Finished) and finished.completion_tokens > 1:
            self.target.generated(finished.decode_seconds / (finished.completion_tokens - 1))


class Dispatcher:
    def __init__(
        self,
        nodes: Nodes,
        workers: WorkerPool,
        remotes: Remotes,
        router: Router,
        *,
        why_never: Callable[[Version], str],
        load_wait_seconds: float = LOAD_WAIT_SECONDS,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        """``why_never``: why a version can't serve whatever its replica does; empty while it can."""
        self._nodes = nodes
        self._workers = workers
        self._remotes = remotes
        self._router = router
        self._why_never = why_never
        self._load_wait_seconds = load_wait_seconds
        self._max_waiting = max_waiting
        self._waiting: dict[int, int] = {}
        self._served: dict[str, ServedCounting] = {}

    @property
    def waiting(self) -> Mapping[int, int]:
        """How many requests wait for each version (by primary key) to load."""
        return self._waiting

    def served(self, node: str) -> ServedCounting:
        """What became of requests that were served there."""
        return self._served.setdefault(node, ServedCounting())

    async def dispatch(self, admitted: Admitted, *, alone: bool = False, teller: LoadTeller | None = None) -> Answer:
        """Have the request served; ``alone``: by the version that was decided on, and no other. ``teller`` hears how
        the load goes that it waits for.

        Raises:
            QuotaExceeded: its prompt is longer than was estimated, and so much can't be granted; or another candidate
                would answer, and its limits are spent.
            InvalidRequest: the worker refused it, for instance because it is longer than the context.
            Unavailable: nobody can take it; says why and when to ask again.
            WorkerFault: the worker failed at it.
        """
        began = time.perf_counter()
        ask, decision = admitted.applicant.ask, admitted.decision
        rules = self._router.rules(decision.asked)
        version, attempt = decision.version, 0
        tried: set[int] = set()
        following: Version | None
        loading: Version | None = None
        """That it would still wait for, had another one not been ready."""
        while True:
            may_follow = attempt < rules.max_retries and not alone
            try:
                if attempt:
                    await admitted.serve_by(version)
                return await self._attempt(admitted, version, began, tried if may_follow else None, teller)
            except _ReadyElsewhere as other:
                following, loading = other.version, version
            except BackendBusy:
                tried.add(version.pk)
                following = self._router.fallback(ask, decision, tried) if may_follow else None
                if following is None:
                    raise
            except QuotaExceeded:
                if loading is None:
                    raise
                tried.add(version.pk)
                following, loading = loading, None
            except WorkerLost as lost:
                log.warning(
                    "A worker was lost before its first token",
                    model_id=version.model,
                    attempt=attempt + 1,
                    reason=str(lost),
                    **admitted.applicant.ids,
                )
                if attempt >= rules.max_retries:
                    raise _gave_up(version, lost, attempt + 1) from None
                if self._nodes.trusted(version.pk):  # another of its replicas takes it at once
                    attempt += 1
                    continue
                pause = min(rules.retry_delay_ms / 1000 * 2**attempt, LONGEST_PAUSE_SECONDS) * random.uniform(0.5, 1.5)
                if not self._nodes.connected and not version.remote:
                    pause = SUPERVISOR_PATIENCE_SECONDS  # its workers end with it, and it says so when it is back
                await self._nodes.changed(version.pk, pause)
                tried.add(version.pk)
                following = None if alone else self._router.fallback(ask, decision, tried)
                if following is None:  # all have had their turn: again from the start
                    tried, following = set(), decision.version
            except (NotReady, WorkerFault):
                tried.add(version.pk)
                following = self._router.fallback(ask, decision, tried) if may_follow else None
                if following is None:
                    raise
            version = following
            attempt += 1

    async def _attempt(
        self,
        admitted: Admitted,
        version: Version,
        began: float,
        tried: Collection[int] | None,
        teller: LoadTeller | None,
    ) -> Answer:
        """``tried``: who (by primary key) is not asked instead while this one is loaded; None: nobody is."""
        if version.remote:
            return await self._serve_by(
                self._remotes.connection(version, admitted.request.given), None, admitted, version, began
            )
        replica = self._nodes.take(version.pk, admitted.applicant.origin.prefixes)
        if replica is None:
            hedge = None if tried is None else self._hedge(admitted, {*tried, version.pk})
            replica = await self._wait_until_ready(version, began + self._load_wait_seconds, hedge, teller)
        try:
            connection = self._workers.connected(replica) or await self._workers.connect(replica)
            return await self._serve_by(connection, replica, admitted, version, began)
        except WorkerLost:
            self._nodes.lost(replica)
            raise

    async def _serve_by(
        self, connection: Connection, replica: ReplicaView | None, admitted: Admitted, version: Version, began: float
    ) -> Answer:
        """``replica``: whose connection it is; None: it leads out of the house."""
        queue_seconds = time.perf_counter() - began
        patience_seconds = max(_LEAST_QUEUE_SECONDS, self._load_wait_seconds - queue_seconds)
        target, asked_at = self._router.targets.of(version), time.perf_counter()
        node = "" if replica is None else replica.node
        served = self.served(node)
        with _Watched(self._router, target, served, alone=len(self._nodes.ready(version.pk)) < 2) as watched:
            stream = _begin(connection, admitted, patience_seconds)
            try:
                messages = await (_first_text(stream) if admitted.request.stream else stream.whole())
            except BaseException:
                stream.cancel()
                raise
            if replica is not None:
                self._nodes.answered(replica)
            if type(messages[-1]) is Failed:
                fault = fault_of(messages[-1])
                raise (admitted.refused if fault.code == QuotaExceeded.default_code else None) or fault
            first_token = first_token_seconds(messages[-1], time.perf_counter() - asked_at)
            watched.answered(first_token)
        name = connection.replica_name
        return Answer(version, node, name, stream, messages, target, first_token, queue_seconds, served)

    def _hedge(self, admitted: Admitted, tried: Collection[int]) -> _Hedge | None:
        ask, decision = admitted.applicant.ask, admitted.decision
        delay_ms = self._router.rules(decision.asked).hedge_delay_ms
        if delay_ms is None:
            return None
        return _Hedge(time.perf_counter() + delay_ms / 1000, lambda: self._router.at_hand(ask, decision, tried))

    async def _wait_until_ready(
        self, version: Version, deadline: float, hedge: _Hedge | None, teller: LoadTeller | None
    ) -> ReplicaView:
        """Demand a version and wait for it, until ``deadline`` (of ``time.perf_counter``), telling how that goes.

        The answer to each view of it:
            (1) ready                                     → take it
            (2) failed since we wait                      → refuse, with the supervisor's reason
            (3) failed before, its back-off ends soon     → wait
            (4) failed before, its back-off lasts         → refuse, with the time it ends
            (5) cold, loading, draining                   → wait
            (6) the registry has withdrawn it meanwhile   → refuse: it will not be loaded
            (7) the supervisor is away, or time is up     → refuse
            (8) it takes long, another one is ready       → take that one; this one is loaded nevertheless
            (9) it can't fit into the node's memory       → refuse, with the arithmetic
            (10) no node takes models                     → refuse: an operator has closed them
        """
        spec = model_spec(version)
        replica = self._nodes.view.get(version.pk)
        known_failure = replica.since if replica is not None and replica.state is ReplicaState.FAILED else -math.inf
        with self._place_in_queue(version):
            while True:
                replica = self._nodes.view.get(version.pk)
                if replica is not None and replica.state is ReplicaState.READY:
                    return replica  # (1)
                if replica is not None and replica.never_fits:
                    raise _never_fits(replica)  # (9)
                if replica is not None and replica.state is ReplicaState.FAILED:
                    pause = max(0.0, replica.retry_at - time.time()) if replica.retry_at is not None else 0.0
                    if replica.since > known_failure + _SAME_MOMENT_SECONDS or pause > FAILURE_PATIENCE_SECONDS:
                        raise _failed(replica, pause)  # (2), (4)
                if problem := self._why_never(version):
                    raise NotReady(problem, code="no_healthy_model", retry_after=5)  # (6)
                if not self._nodes.loads(version.pk):
                    raise NotReady(_CLOSED, code="no_healthy_model", retry_after=_CLOSED_SECONDS)  # (10)
                now = time.perf_counter()
                left = deadline - now
                if left <= 0 or self._supervisor_away():
                    raise self._too_slow(version, replica)  # (7)
                pause = min(left, SUPERVISOR_PATIENCE_SECONDS)
                if hedge is not None:
                    if now >= hedge.at and (other := hedge.find()) is not None:
                        raise _ReadyElsewhere(other)  # (8)
                    pause = min(pause, hedge.seconds(now))
                if teller is not None:
                    await teller.tell(replica)
                    if self._nodes.view.get(version.pk) is not replica:
                        continue  # it changed while the client's socket took the comment
                    pause = min(pause, EVERY_SECONDS)
                await self._nodes.demand(
                    spec, pause, size_bytes=version.size_bytes, wanted=version.replicas
                )  # (3), (5)

    @contextmanager
    def _place_in_queue(self, version: Version) -> Iterator[None]:
        waiting = self._waiting.get(version.pk, 0)
        if waiting >= self._max_waiting:
            raise NotReady(
                f"The model '{version.model}' is loading and {waiting} requests already wait for it. Try again later.",
                retry_after=retry_after(self._nodes.view.get(version.pk), time.time(), otherwise=_RETRY_SECONDS),
            )
        self._waiting[version.pk] = waiting + 1
        try:
            yield
        finally:
            self._waiting[version.pk] -= 1
            if not self._waiting[version.pk]:
                del self._waiting[version.pk]

    def _supervisor_away(self) -> bool:
        away_seconds = 0.0 if self._nodes.connected else time.time() - self._nodes.since
        return away_seconds > SUPERVISOR_PATIENCE_SECONDS

    def _too_slow(self, version: Version, replica: ReplicaView | None) -> NotReady:
        if not self._nodes.connected:
            state = "the supervisor can't be reached"
        elif replica is None or replica.state is ReplicaState.COLD:
            state = _in_line(replica) if replica is not None and replica.place else "it waits for its turn to be loaded"
        elif replica.state is ReplicaState.LOADING:
            state = f"it is loading, {replica.progress:.0%} done"
        else:
            state = f"it is {replica.state}" + (f": {replica.reason}" if replica.reason else "")
        return NotReady(
            f"The model '{version.model}' did not become ready in time: {state}. Try again later.",
            retry_after=retry_after(replica, time.time(), otherwise=_RETRY_SECONDS),
        )


class _Watched:
    """While entered, a target is asked: what becomes of that counts for its load, its latency, its breaker and its
    health. Once it has answered, its work goes on after the end."""

    __slots__ = ("_alone", "_answered", "_router", "_served", "_target")

    def __init__(self, router: Router, target: Target, served: ServedCounting, *, alone: bool) -> None:
        """``alone``: nobody else serves the version, so that what fails here fails the version."""
        self._alone = alone
        self._router = router
        self._target = target
        self._served = served
        self._answered = False

    def __enter__(self) -> "_Watched":
        self._target.began()
        if self._target.breaker.suspicious:
            self._target.breaker.began(time.monotonic())
            self._look()
        return self

    def answered(self, first_token: float) -> None:
        self._answered = True
        self._target.answered(first_token)

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        target, breaker = self._target, self._target.breaker
        if not self._answered:
            target.ended()
        if isinstance(fault, WorkerLost | WorkerFault | BackendFault | BackendBusy):
            self._served.failed(target.version.pk)
            if self._alone or not isinstance(fault, WorkerLost):
                breaker.failed(time.monotonic())
                self._look()
        elif breaker.suspicious:
            breaker.succeeded() if self._answered else breaker.withdrawn()
            self._look()

    def _look(self) -> None:
        self._router.look_at_breakers((self._target,), time.monotonic())


def _begin(connection: Connection, admitted: Admitted, patience_seconds: float) -> Stream:
    request = admitted.request
    parts = admitted.begin()
    first = _work(admitted.applicant, connection.next_id(), patience_seconds, parts[0])
    if not request.further_prompts or isinstance(first, Embed):
        return connection.begin(first, parts[0])
    further = [
        msgspec.structs.replace(
            first,
            id=connection.next_id(),
            text=prompt if type(prompt) is str else None,
            tokens=prompt if type(prompt) is tuple else None,
            prefixes=prompt_prefixes(first.partition, prompt, infill=first.suffix is not None)
            if first.partition
            else (),
            granted_tokens=part.granted,
        )
        for prompt, part in zip(request.further_prompts, parts[1:], strict=True)
    ]
    return begin_joint(connection, [first, *further], parts)


def _work(applicant: Applicant, stream_id: int, patience_seconds: float, part: PartMeter) -> Generate | Embed:
    request, origin = applicant.request, applicant.origin
    traceparent = "" if applicant.trace is None else applicant.trace.traceparent
    if request.inputs:
        return Embed(
            id=stream_id,
            request_id=applicant.request_id,
            traceparent=traceparent,
            inputs=request.inputs,
            dimensions=request.dimensions,
            tenant=origin.tenant,
            weight=origin.weight,
            priority=request.priority,
            granted_tokens=part.granted,
        )
    return Generate(
        id=stream_id,
        request_id=applicant.request_id,
        traceparent=traceparent,
        messages=request.messages,
        text=request.text,
        tokens=request.tokens,
        max_tokens=request.max_tokens,
        stop=request.stop,
        ignore_eos=request.ignore_eos,
        echo=request.echo,
        suffix=request.suffix,
        sampling=request.sampling,
        n=request.n,
        logprobs=request.logprobs,
        constraint=request.constraint,
        tools=request.tools,
        tool_choice=request.tool_choice,
        forced_tool=request.forced_tool,
        parallel_tool_calls=request.parallel_tool_calls,
        partition=origin.partition,
        tenant=origin.tenant,
        weight=origin.weight,
        priority=request.priority,
        queue_seconds=patience_seconds,
        prefixes=origin.prefixes,
        granted_tokens=part.granted,
    )


async def _first_text(stream: Stream) -> list[StreamMessage]:
    """The first messages that hold something to send. An accepted prompt alone can still be tried elsewhere."""
    messages = await stream.next()
    while type(messages[-1]) is Accepted:
        messages = await stream.next()
    return messages


def first_token_seconds(message: StreamMessage, seconds: float) -> float:
    """From asking a worker, so many seconds ago, to its first token, when this is its newest message."""
    if isinstance(message, Finished):  # it knows when it began
        return message.queue_seconds + message.prefill_seconds
    return seconds


def fault_of(failed: Failed) -> ApiError:
    """A worker's failure as the client is told."""
    if failed.code == ContextLengthExceeded.default_code:
        return ContextLengthExceeded(failed.message, param=failed.param)
    if failed.status == InvalidRequest.status:
        return InvalidRequest(failed.message, param=failed.param, code=failed.code)
    if failed.code == RATE_LIMITED:
        return BackendBusy(failed.message, code=failed.code, retry_after=failed.retry_after)
    if failed.status == QuotaExceeded.status:
        return QuotaExceeded(failed.message, param=failed.param, code=failed.code)
    if failed.code.startswith("backend_") and failed.status == Unavailable.status:
        return BackendFault(failed.message, code=failed.code, retry_after=failed.retry_after)
    if failed.status == Unavailable.status:
        return Unavailable(failed.message, param=failed.param, code=failed.code, retry_after=1)
    return WorkerFault(failed.message, param=failed.param, code=failed.code)


def _in_line(replica: ReplicaView) -> str:
    return f"{replica.reason}, at place {replica.place} in line"


def _never_fits(replica: ReplicaView) -> NotReady:
    return NotReady(
        f"The model '{replica.model}' does not fit into memory: {replica.reason}.",
        code="insufficient_memory",
        retry_after=_MEMORY_SECONDS,
    )


def _failed(replica: ReplicaView, pause_seconds: float) -> NotReady:
    reason = replica.reason or "its worker gave no reason"
    return NotReady(
        f"The model '{replica.model}' could not be loaded: {reason}",
        code="no_healthy_model",
        retry_after=max(1, round(pause_seconds)),
    )


def _gave_up(version: Version, lost: WorkerLost, attempts: int) -> Unavailable:
    return Unavailable(
        f"The model '{version.model}' could not answer, in {attempts} attempts: {lost}. Try again.",
        code="worker_failed",
        retry_after=1,
    )
