"""Where requests of one model wait for their turn, one at a time and in fair order: to keep a pace, or until a limit
has something left again."""

import asyncio
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from inference.gateway.standings import Pace
from quotas.queueing import FairQueue, Full
from registry.errors import QuotaExceeded


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Who waits, and how long at most."""

    tenant: str
    weight: float
    priority: int
    seconds: float
    length: int
    """So many may wait."""


@dataclass(slots=True, eq=False)
class _Ticket:
    turn: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Turnstile:
    """Owned by the event loop. Whoever was let in calls :meth:`leave`."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._queue: FairQueue[_Ticket] = FairQueue()
        self._inside = False
        self._timer: asyncio.TimerHandle | None = None
        self._due: dict[str, float] = {}
        """By account, when its next request is due to keep its pace; of ``time.monotonic``."""

    @property
    def idle(self) -> bool:
        """Nobody is inside or waits."""
        return not self._inside and not len(self._queue)

    async def enter(self, place: Place, paces: Iterable[Pace] = ()) -> bool:
        """Wait for a turn. Whether it had to be waited for.

        Raises:
            QuotaExceeded: too many wait, or it would last, or has lasted, too long.
        """
        now = time.monotonic()
        ready_at = self._ready_at(paces)
        if self.idle and ready_at <= now:
            self._inside = True
            return False
        if ready_at - now > place.seconds:
            raise self._refused(f"the next one is due in {ready_at - now:.0f} s", ready_at - now, paces)
        ticket = self._queued(place, paces)
        self._call_next(ready_at)
        try:
            async with asyncio.timeout(place.seconds):
                await ticket.turn
        except TimeoutError:
            self._give_up(ticket, paces)
            why = f"this one has waited {place.seconds:.0f} s"
            raise self._refused(why, self._ready_at(paces) - time.monotonic(), paces) from None
        except BaseException:
            self._give_up(ticket, paces)
            raise
        return True

    def passed(self, paces: Iterable[Pace], tokens: int) -> None:
        """Who is inside goes on, with so many tokens promised: when the next one is due."""
        now = time.monotonic()
        for pace in paces:
            amount = tokens if pace.tokens else 1
            self._due[pace.account] = max(now, self._due.get(pace.account, now)) + amount / pace.per_second

    def unused(self, paces: Iterable[Pace], tokens: int) -> None:
        """Of what one who passed was promised it has not used so many: the next one is due earlier."""
        for pace in paces:
            if pace.tokens and pace.account in self._due:
                self._due[pace.account] -= tokens / pace.per_second
        if not self._inside:
            self._call_next(self._ready_at(paces))

    def leave(self, paces: Iterable[Pace] = ()) -> None:
        self._inside = False
        self._call_next(self._ready_at(paces))

    def _queued(self, place: Place, paces: Iterable[Pace]) -> _Ticket:
        ticket, now = _Ticket(), time.monotonic()
        due = self._ready_at(paces) - now
        try:
            displaced = self._queue.push(
                ticket,
                tenant=place.tenant,
                weight=place.weight,
                priority=place.priority,
                now=now,
                most=place.length,
            )
        except Full:
            raise self._refused(f"{place.length} requests wait already", due, paces) from None
        if displaced is not None and not displaced.turn.done():
            displaced.turn.set_exception(self._refused("others had fewer requests waiting", due, paces))
        return ticket

    def _give_up(self, ticket: _Ticket, paces: Iterable[Pace]) -> None:
        self._queue.remove(ticket)
        turn = ticket.turn
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            self.leave(paces)  # it was let in at the same moment

    def _ready_at(self, paces: Iterable[Pace]) -> float:
        return max((self._due.get(pace.account, -math.inf) for pace in paces), default=-math.inf)

    def _call_next(self, ready_at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._inside or not len(self._queue):
            return
        delay = ready_at - time.monotonic()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0.0, delay), self._let_in)

    def _let_in(self) -> None:
        self._timer = None
        ticket = self._queue.pop(time.monotonic())
        if ticket is not None:
            self._inside = True
            ticket.turn.set_result(None)

    def _refused(self, why: str, retry_seconds: float, paces: Iterable[Pace]) -> QuotaExceeded:
        limits = " and its ".join(pace.limit for pace in paces)
        what = (
            f"is near its {limits}, so that its requests are slowed down (degradation_policy.pace)"
            if limits
            else "has nothing left of a limit, so that its requests wait (degradation_policy.at_hard_limit)"
        )
        return QuotaExceeded(
            f"The model '{self._model}' {what}, and {why}: try again later, ask another model, or have the limit "
            "raised.",
            code="rate_limited",
            retry_after=math.ceil(min(max(1.0, retry_seconds), 3600.0)),
        )
