"""What a request really uses: counted by its worker's messages, also after its client has left, and settled once.

A request is sent to a worker in one part, or in one for each of its prompts. A worker counts exactly, never goes beyond
what a part was granted, and asks for more.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from inference.gateway.estimates import STEP_TOKENS, burst_exceeded
from inference.gateway.workers import Meter, WorkerConnection
from inference.protocol import Accepted, Delta, Embedded, Failed, Finished, FinishReason, Grant, Wants
from quotas.ledger import Reservation
from registry.errors import ApiError, QuotaExceeded


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """By one request, or by a part of it."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


NOTHING = Used()


class Grants(Protocol):
    """Where a request's promises come from: :class:`inference.gateway.promises.Promises`."""

    async def extend(self, reservation: Reservation, tokens: int) -> bool: ...
    def refusal(self, reservation: Reservation, tokens: int) -> QuotaExceeded | None: ...


class RequestMeter:
    """What one request was promised and uses. It is over when its client waits no more and its workers have said so."""

    __slots__ = (
        "_burst",
        "_choices",
        "_closed",
        "_grants",
        "_open",
        "_over",
        "_promises",
        "_reservation",
        "_used",
        "began",
        "failed",
        "refused",
        "tasks",
    )

    def __init__(
        self,
        promises: Grants,
        reservation: Reservation | None,
        grants: Sequence[int | None],
        *,
        burst: int | None,
        choices: int,
        over: Callable[[Used], None],
        tasks: "set[asyncio.Task[None]]",
    ) -> None:
        """
        Args:
            grants: to each of its prompts; None: nothing limits it.
            over: is told once, when the request is over, what it used.
            tasks: keeps those that wait for a grant alive.
        """
        self._promises = promises
        self._reservation = reservation
        self._grants = grants
        self._burst = burst
        self._choices = choices
        self._over = over
        self.tasks = tasks
        self._open: set[PartMeter] = set()
        self._used = NOTHING
        self._closed = False
        self.began = time.monotonic()
        self.refused: QuotaExceeded | None = None
        """Why its prompt can't be computed, though it was admitted: it is longer than was estimated."""
        self.failed = False
        """For a reason of the server's."""

    def begin(self) -> "list[PartMeter]":
        """It is sent to a worker, for the first time or again, when what an earlier one did costs nothing: the meters
        of its prompts."""
        parts = [PartMeter(self, granted) for granted in self._grants]
        self._open, self._used = set(parts), NOTHING
        return parts

    def close(self) -> None:
        """Nobody waits for its answer any more."""
        self._closed = True
        self._settle()

    def fail(self, fault: BaseException) -> None:
        """It ended so."""
        self.failed = not isinstance(fault, ApiError) or fault.status >= 500

    def ended(self, part: "PartMeter", used: Used) -> None:
        if part in self._open:  # else it was of an earlier attempt
            self._open.discard(part)
            self._used = used if self._used is NOTHING else _sum(self._used, used)
            self._settle()

    async def grant_more(self, part: "PartMeter", least: int) -> bool:
        """False: that is all it gets."""
        reservation = self._reservation
        assert reservation is not None, "who was granted a number of tokens has a reservation"
        wanted = max(least, STEP_TOKENS * self._choices)
        if self._burst is not None:
            wanted = min(wanted, self._burst - reservation.tokens)
        if wanted < least:
            self.refused = burst_exceeded(self._burst or 0, reservation.tokens + least)
            return False
        for tokens in dict.fromkeys((wanted, least)):
            if not reservation.settled and await self._promises.extend(reservation, tokens):
                part.granted = (part.granted or 0) + tokens
                return True
        if not reservation.settled:
            self.refused = self._promises.refusal(reservation, least)
        return False

    def later(self, part: "PartMeter", least: int, connection: WorkerConnection, request_id: int) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(part, least, connection, request_id))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _answer(self, part: "PartMeter", least: int, connection: WorkerConnection, request_id: int) -> None:
        more = await self.grant_more(part, least)
        connection.grant(Grant(id=request_id, tokens=part.granted or 0, last=not more))

    def _settle(self) -> None:
        if self._closed and not self._open:
            over, self._over = self._over, _nothing_more
            over(self._used)


class PartMeter(Meter):
    """Counts what one worker does for a request, until it says that it is over, also after its client has left."""

    __slots__ = ("_prompt_tokens", "_request", "_tokens", "granted")

    def __init__(self, request: RequestMeter, granted: int | None) -> None:
        self._request = request
        self.granted = granted
        self._prompt_tokens = 0
        self._tokens = 0

    def feed(
        self, message: Accepted | Wants | Delta | Finished | Failed | Embedded, connection: WorkerConnection
    ) -> bool:
        """Whether it is over."""
        if isinstance(message, Delta):
            self._tokens = message.tokens
        elif isinstance(message, Accepted):
            self._prompt_tokens = message.prompt_tokens
        elif isinstance(message, Wants):
            self._request.later(self, message.tokens - (self.granted or 0), connection, message.id)
        elif isinstance(message, Finished):
            begun = message.completion_tokens or message.prefill_seconds or message.reason is not FinishReason.CANCELLED
            self._request.ended(self, _of(message) if begun else NOTHING)
            return True
        elif isinstance(message, Embedded):
            self._request.ended(self, Used(prompt_tokens=message.prompt_tokens))
            return True
        else:
            self.lose()
            return True
        return False

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


def _nothing_more(used: Used) -> None:
    """It was over already."""
