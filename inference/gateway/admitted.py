"""A request that is being served, and what it really uses: counted by its worker's messages, also after its client has
left, and settled once.

A request is sent to a worker in one part, or in one for each of its prompts. A worker counts exactly, never goes beyond
what a part was granted, and asks for more.
"""

import asyncio
import time
from functools import partial
from types import TracebackType
from typing import Protocol

import msgspec

from inference.gateway.asgi import ClientGone
from inference.gateway.estimates import STEP_TOKENS, burst_exceeded
from inference.gateway.origin import Origin
from inference.gateway.parse import InferenceRequest
from inference.gateway.permits import Held
from inference.gateway.terms import Terms
from inference.gateway.worker_spans import worker_spans
from inference.gateway.workers import Connection, Meter
from inference.protocol import Accepted, Delta, Embedded, Failed, Finished, FinishReason, Grant, Wants, WorkerSpan
from inference.traces.trace import Trace, log_ids
from quotas.callers import Caller
from quotas.ledger import Reservation
from registry.catalogue import Version
from registry.errors import ApiError, QuotaExceeded
from routing.ask import Ask
from routing.decision import Decision


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """By one request, or by a part of it."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


NOTHING = Used()


class Applicant(msgspec.Struct, frozen=True, kw_only=True):
    """A request that asks to be served."""

    request: InferenceRequest
    ask: Ask
    """What it was routed by."""
    decision: Decision
    caller: Caller | None
    origin: Origin
    request_id: str
    trace: Trace | None = None
    copy: bool = False
    """Of another one, for a test's sake: it is nobody's use."""

    @property
    def model(self) -> str:
        return self.decision.version.model

    @property
    def ids(self) -> dict[str, str]:
        """The fields of a log line that tell this request."""
        return log_ids(self.request_id, self.trace)


class Promise(msgspec.Struct, frozen=True):
    """What an admitted request has."""

    terms: Terms
    held: Held | None
    """Its place among those that run at once. None: their number is not limited."""
    reservation: Reservation | None
    """None: its tokens are not limited."""
    grants: list[int] | None
    """To each of its prompts. None likewise."""


class Desk(Protocol):
    """Who has admitted it: :class:`inference.gateway.admission.Admission`."""

    tasks: set[asyncio.Task[None]]
    """Of requests that wait for a grant."""

    def hour(self) -> int: ...
    async def promise(self, applicant: Applicant) -> Promise: ...
    async def extend(self, reservation: Reservation, tokens: int) -> bool: ...
    def refusal(self, reservation: Reservation, tokens: int) -> QuotaExceeded | None: ...
    def withdraw(self, promise: Promise) -> None: ...
    def over(self, admitted: "Admitted", promise: Promise, used: Used) -> None: ...


class Admitted:
    """A request that is being served, while it is entered. It is over when its client waits no more and its workers
    have said so."""

    __slots__ = (
        "_closed",
        "_desk",
        "_open",
        "_promise",
        "_used",
        "applicant",
        "began",
        "failed",
        "hour",
        "refused",
        "waited",
        "ways",
    )

    def __init__(self, desk: Desk, applicant: Applicant, promise: Promise, ways: tuple[str, ...] = ()) -> None:
        self._desk = desk
        self.applicant = applicant
        self._promise: Promise | None = promise
        self._open: set[PartMeter] = set()
        self._used = NOTHING
        self._closed = False
        self.ways = ways
        """How it was treated for a limit's sake: ``paced``, ``capped``, ``sibling``."""
        self.waited = 0.0
        """Seconds that it waited to be admitted."""
        self.began = time.monotonic()
        self.hour = desk.hour()
        """In which it was admitted."""
        self.refused: QuotaExceeded | None = None
        """Why its prompt can't be computed, though it was admitted: it is longer than was estimated."""
        self.failed = False
        """For a reason of the server's."""

    @property
    def request(self) -> InferenceRequest:
        return self.applicant.request

    @property
    def decision(self) -> Decision:
        return self.applicant.decision

    def __enter__(self) -> "Admitted":
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        """Nobody waits for its answer any more."""
        if isinstance(fault, Exception) and not isinstance(fault, ClientGone):
            self.fail(fault)
        self._closed = True
        self._end()

    async def serve_by(self, version: Version) -> None:
        """Another of its candidates is to answer. If that is of another model, its limits are charged, and only they.

        Raises as :meth:`Admission.promise`. It has nothing then, until it is asked for once more.
        """
        another = version.model != self.applicant.model
        decision = msgspec.structs.replace(self.decision, version=version)
        self.applicant = msgspec.structs.replace(self.applicant, decision=decision)
        if another or self._promise is None:
            promise, self._promise = self._promise, None
            if promise is not None:
                self._desk.withdraw(promise)
            self._promise = await self._desk.promise(self.applicant)

    def begin(self) -> "list[PartMeter]":
        """It is sent to a worker, for the first time or again, when what an earlier one did costs nothing: the meters
        of its prompts."""
        grants = self._promise.grants if self._promise is not None else None
        if grants is None:
            parts = [PartMeter(self, None) for _ in range(1 + len(self.request.further_prompts))]
        else:
            parts = [PartMeter(self, granted) for granted in grants]
        self._open, self._used = set(parts), NOTHING
        return parts

    def fail(self, fault: BaseException) -> None:
        """It ended so."""
        self.failed = not isinstance(fault, ApiError) or fault.status >= 500

    def ended(self, part: "PartMeter", used: Used) -> None:
        """A worker has said so, or is gone."""
        if part in self._open:  # else it was of an earlier attempt
            self._open.discard(part)
            self._used = used if self._used is NOTHING else _sum(self._used, used)
            self._end()

    async def grant_more(self, part: "PartMeter", least: int) -> bool:
        """False: that is all it gets."""
        promise = self._promise
        if promise is None or promise.reservation is None:  # it is over
            return False
        reservation, burst = promise.reservation, promise.terms.limits.burst
        wanted = max(least, STEP_TOKENS * self.request.n)
        if burst is not None:
            wanted = min(wanted, burst - reservation.tokens)
            if wanted < least:
                self.refused = burst_exceeded(burst, reservation.tokens + least)
                return False
        for tokens in dict.fromkeys((wanted, least)):
            if not reservation.settled and await self._desk.extend(reservation, tokens):
                part.granted = (part.granted or 0) + tokens
                return True
        if not reservation.settled:
            self.refused = self._desk.refusal(reservation, least)
        return False

    def wants(self, part: "PartMeter", least: int, connection: Connection, request_id: int) -> None:
        """Its worker asks for so many tokens more, at least; it is answered when that is decided."""
        task = asyncio.get_running_loop().create_task(self._answer(part, least, connection, request_id))
        self._desk.tasks.add(task)
        task.add_done_callback(self._desk.tasks.discard)

    async def _answer(self, part: "PartMeter", least: int, connection: Connection, request_id: int) -> None:
        more = await self.grant_more(part, least)
        connection.grant(Grant(id=request_id, tokens=part.granted or 0, last=not more))

    def _end(self) -> None:
        if self._closed and not self._open and self._promise is not None:
            promise, self._promise = self._promise, None
            self._desk.over(self, promise, self._used)


class PartMeter(Meter):
    """Counts what one worker does for a request, until it says that it is over, also after its client has left."""

    __slots__ = ("_prompt_tokens", "_request", "_tokens", "granted")

    def __init__(self, request: Admitted, granted: int | None) -> None:
        self._request = request
        self.granted = granted
        self._prompt_tokens = 0
        self._tokens = 0

    def feed(self, message: Accepted | Wants | Delta | Finished | Failed | Embedded, connection: Connection) -> bool:
        """Whether it is over."""
        if isinstance(message, Delta):
            self._tokens = message.tokens
        elif isinstance(message, Accepted):
            self._prompt_tokens = message.prompt_tokens
        elif isinstance(message, Wants):
            self._request.wants(self, message.tokens - (self.granted or 0), connection, message.id)
        elif isinstance(message, Finished):
            begun = message.completion_tokens or message.prefill_seconds or message.reason is not FinishReason.CANCELLED
            self._request.ended(self, _of(message) if begun else NOTHING)
            self._tell_spans(message.spans, connection)
            return True
        elif isinstance(message, Embedded):
            self._request.ended(self, Used(prompt_tokens=message.prompt_tokens))
            self._tell_spans(message.spans, connection)
            return True
        else:
            self.lose()
            return True
        return False

    def _tell_spans(self, spans: tuple[WorkerSpan, ...], connection: Connection) -> None:
        if spans and (trace := self._request.applicant.trace) is not None:
            trace.tell(partial(worker_spans, trace, connection.worker_pid, spans))

    def lose(self) -> None:
        """The worker failed or is gone: what the client may have of its answer counts."""
        used = Used(prompt_tokens=self._prompt_tokens, completion_tokens=self._tokens) if self._tokens else NOTHING
        self._request.ended(self, used)


def _of(finished: Finished) -> Used:
    return Used(
        prompt_tokens=finished.prompt_tokens,
        cached_tokens=finished.cached_tokens,
        completion_tokens=finished.completion_tokens,
    )


def _sum(one: Used, other: Used) -> Used:
    return Used(
        prompt_tokens=one.prompt_tokens + other.prompt_tokens,
        cached_tokens=one.cached_tokens + other.cached_tokens,
        completion_tokens=one.completion_tokens + other.completion_tokens,
    )
