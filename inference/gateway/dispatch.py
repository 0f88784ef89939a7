"""From a decision to a worker's answer whose first message is in hand.

Nothing has been sent to the client yet when :meth:`Dispatcher.dispatch` returns, so everything that fails before can
still be retried, elsewhere if the decision has other candidates, or answered with a status.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import msgspec
import structlog

from inference.gateway.admitted import Admitted, PartMeter
from inference.gateway.joint import begin_joint
from inference.gateway.origin import Origin, prompt_prefixes
from inference.gateway.parse import InferenceRequest
from inference.gateway.replicas import ReplicaClient
from inference.gateway.workers import Stream, StreamMessage, WorkerConnection, WorkerLost, WorkerPool
from inference.protocol import Accepted, Embed, Failed, Generate, ReplicaState, ReplicaView
from inference.specs import model_spec
from registry.catalogue import Version
from registry.errors import ApiError, ContextLengthExceeded, InvalidRequest, QuotaExceeded, Unavailable

log = structlog.get_logger(module="gateway")

MAX_RETRIES = 3
RETRY_SECONDS = 0.1
"""Doubled each time, ± half: a supervisor takes some ms to notice a death, and its news ends the pause."""

LOAD_WAIT_SECONDS = 120.0
MAX_WAITING = 256
"""Requests that wait for one version to load, in this process."""

SUPERVISOR_PATIENCE_SECONDS = 10.0
"""How long the supervisor may be away, while it is restarted, before those who wait for a load are sent away."""

FAILURE_PATIENCE_SECONDS = 5.0
"""A request waits out a failed replica's back-off if it ends within this time, else it is answered at once."""

_LEAST_QUEUE_SECONDS = 1.0
"""A worker may keep a request waiting for what a load has left of the patience, and at least so long."""

_SAME_MOMENT_SECONDS = 0.01
"""The supervisor tells times of its monotonic clock in seconds since the epoch; between two views they move by µs."""


class NotReady(Unavailable):
    """No replica of this version will take the request in time."""

    default_code = "model_loading"


class WorkerFault(ApiError):
    """The worker took the request and could not serve it."""

    default_code = "worker_failed"


class Answer(msgspec.Struct):
    """A worker's answer, begun."""

    version: Version
    worker_pid: int
    stream: Stream
    messages: list[StreamMessage]
    """For a stream the messages that are in hand, with the first text; else all of them."""
    queue_seconds: float
    """From the decision to the moment the worker that answered was asked."""


class Dispatcher:
    def __init__(
        self,
        replicas: ReplicaClient,
        workers: WorkerPool,
        *,
        why_never: Callable[[Version], str],
        load_wait_seconds: float = LOAD_WAIT_SECONDS,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        """``why_never``: why a version can't serve whatever its replica does; empty while it can."""
        self._replicas = replicas
        self._workers = workers
        self._why_never = why_never
        self._load_wait_seconds = load_wait_seconds
        self._max_waiting = max_waiting
        self._waiting: dict[int, int] = {}

    @property
    def waiting(self) -> Mapping[int, int]:
        """How many requests wait for each version (by primary key) to load."""
        return self._waiting

    async def dispatch(self, admitted: Admitted, request_id: str) -> Answer:
        """Have the request served.

        Raises:
            QuotaExceeded: its prompt is longer than was estimated, and so much can't be granted; or another candidate
                would answer, and its limits are spent.
            InvalidRequest: the worker refused it, for instance because it is longer than the context.
            Unavailable: nobody can take it; says why and when to ask again.
            WorkerFault: the worker failed at it.
        """
        began = time.perf_counter()
        decision = admitted.decision
        last_candidate = len(decision.candidates) - 1
        attempt = 0
        while True:
            version = decision.attempt(attempt)
            try:
                if attempt:
                    await admitted.serve_by(version)
                return await self._attempt(admitted, version, request_id, began)
            except WorkerLost as lost:
                log.warning(
                    "A worker was lost before its first token",
                    model_id=version.model,
                    request_id=request_id,
                    attempt=attempt + 1,
                    reason=str(lost),
                )
                if attempt >= MAX_RETRIES:
                    raise _gave_up(version, lost) from None
                pause = RETRY_SECONDS * 2**attempt * random.uniform(0.5, 1.5)
                if not self._replicas.connected:  # its workers end with it, and it says so when it is back
                    pause = SUPERVISOR_PATIENCE_SECONDS
                await self._replicas.changed(version.pk, pause)
            except NotReady:
                if attempt >= min(last_candidate, MAX_RETRIES):
                    raise
            attempt += 1

    async def _attempt(self, admitted: Admitted, version: Version, request_id: str, began: float) -> Answer:
        replica = self._replicas.view.get(version.pk)
        if replica is None or replica.state is not ReplicaState.READY:
            replica = await self._wait_until_ready(version, began + self._load_wait_seconds)
        connection = self._workers.connected(replica) or await self._workers.connect(replica)
        queue_seconds = time.perf_counter() - began
        patience_seconds = max(_LEAST_QUEUE_SECONDS, self._load_wait_seconds - queue_seconds)
        stream = _begin(connection, admitted, request_id, patience_seconds)
        try:
            messages = await (_first_text(stream) if admitted.request.stream else stream.whole())
        except BaseException:
            stream.cancel()
            raise
        self._replicas.used(version.pk)
        if type(messages[-1]) is Failed:
            raise admitted.refused or fault_of(messages[-1])
        return Answer(version, connection.worker_pid, stream, messages, queue_seconds)

    async def _wait_until_ready(self, version: Version, deadline: float) -> ReplicaView:
        """Demand a version and wait for it, until ``deadline`` (of ``time.perf_counter``).

        The answer to each view of it:
            (1) ready                                     → take it
            (2) failed since we wait                      → refuse, with the supervisor's reason
            (3) failed before, its back-off ends soon     → wait
            (4) failed before, its back-off lasts         → refuse, with the time it ends
            (5) cold, loading, draining                   → wait
            (6) the registry has withdrawn it meanwhile   → refuse: it will not be loaded
            (7) the supervisor is away, or time is up     → refuse
        """
        spec = model_spec(version)
        replica = self._replicas.view.get(version.pk)
        known_failure = replica.since if replica is not None and replica.state is ReplicaState.FAILED else -math.inf
        with self._place_in_queue(version):
            while True:
                replica = self._replicas.view.get(version.pk)
                if replica is not None and replica.state is ReplicaState.READY:
                    return replica  # (1)
                if replica is not None and replica.state is ReplicaState.FAILED:
                    pause = max(0.0, replica.retry_at - time.time()) if replica.retry_at is not None else 0.0
                    if replica.since > known_failure + _SAME_MOMENT_SECONDS or pause > FAILURE_PATIENCE_SECONDS:
                        raise _failed(replica, pause)  # (2), (4)
                if problem := self._why_never(version):
                    raise NotReady(problem, code="no_healthy_model", retry_after=5)  # (6)
                left = deadline - time.perf_counter()
                if left <= 0 or self._supervisor_away():
                    raise self._too_slow(version, replica)  # (7)
                await self._replicas.demand(spec, min(left, SUPERVISOR_PATIENCE_SECONDS))  # (3), (5)

    @contextmanager
    def _place_in_queue(self, version: Version) -> Iterator[None]:
        waiting = self._waiting.get(version.pk, 0)
        if waiting >= self._max_waiting:
            raise NotReady(
                f"The model '{version.model}' is loading and {waiting} requests already wait for it. Try again later.",
                retry_after=10,
            )
        self._waiting[version.pk] = waiting + 1
        try:
            yield
        finally:
            self._waiting[version.pk] -= 1
            if not self._waiting[version.pk]:
                del self._waiting[version.pk]

    def _supervisor_away(self) -> bool:
        away_seconds = 0.0 if self._replicas.connected else time.time() - self._replicas.since
        return away_seconds > SUPERVISOR_PATIENCE_SECONDS

    def _too_slow(self, version: Version, replica: ReplicaView | None) -> NotReady:
        if not self._replicas.connected:
            state = "this node's supervisor can't be reached"
        elif replica is None or replica.state is ReplicaState.COLD:
            state = "it waits for its turn to be loaded"
        elif replica.state is ReplicaState.LOADING:
            state = f"it is loading, {replica.progress:.0%} done"
        else:
            state = f"it is {replica.state}" + (f": {replica.reason}" if replica.reason else "")
        return NotReady(
            f"The model '{version.model}' did not become ready in time: {state}. Try again later.",
            retry_after=10,
        )


def _begin(connection: WorkerConnection, admitted: Admitted, request_id: str, patience_seconds: float) -> Stream:
    request, origin = admitted.request, admitted.applicant.origin
    parts = admitted.begin()
    first = _work(request, connection.next_id(), request_id, origin, patience_seconds, parts[0])
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


def _work(
    request: InferenceRequest,
    stream_id: int,
    request_id: str,
    origin: Origin,
    patience_seconds: float,
    part: PartMeter,
) -> Generate | Embed:
    if request.inputs:
        return Embed(
            id=stream_id,
            request_id=request_id,
            inputs=request.inputs,
            dimensions=request.dimensions,
            tenant=origin.tenant,
            weight=origin.weight,
            priority=request.priority,
            granted_tokens=part.granted,
        )
    return Generate(
        id=stream_id,
        request_id=request_id,
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


def fault_of(failed: Failed) -> ApiError:
    """A worker's failure as the client is told."""
    if failed.code == ContextLengthExceeded.default_code:
        return ContextLengthExceeded(failed.message, param=failed.param)
    if failed.status == InvalidRequest.status:
        return InvalidRequest(failed.message, param=failed.param, code=failed.code)
    if failed.status == QuotaExceeded.status:
        return QuotaExceeded(failed.message, param=failed.param, code=failed.code)
    if failed.status == Unavailable.status:
        return Unavailable(failed.message, param=failed.param, code=failed.code, retry_after=1)
    return WorkerFault(failed.message, param=failed.param, code=failed.code)


def _failed(replica: ReplicaView, pause_seconds: float) -> NotReady:
    reason = replica.reason or "its worker gave no reason"
    return NotReady(
        f"The model '{replica.model}' could not be loaded: {reason}",
        code="no_healthy_model",
        retry_after=max(1, round(pause_seconds)),
    )


def _gave_up(version: Version, lost: WorkerLost) -> Unavailable:
    return Unavailable(
        f"The model '{version.model}' could not answer, in {MAX_RETRIES + 1} attempts: {lost}. Try again.",
        code="worker_failed",
        retry_after=1,
    )
