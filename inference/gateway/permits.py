"""Places among the requests that may run at once: this gateway's part of what the supervisor hands out.

Permits of requests that have ended are kept for a moment and used again without asking, so that one gateway alone asks
for as many as ever run at once, and not for each request. As soon as somebody else waits for a subject, idle ones go
back, and each that is released: the supervisor then decides who is next, over all gateways.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from inference.protocol import (
    Acquire,
    Contended,
    Crowded,
    GatewayToSupervisor,
    Holding,
    Limits,
    PermitAnswer,
    Permitted,
    Release,
    Withdraw,
)
from quotas.limits import PermitLimit
from registry.errors import QuotaExceeded

IDLE_SECONDS = 1.0
"""Permits that nobody used for so long go back."""


class _Pool:
    """Of one subject."""

    __slots__ = ("held", "in_use", "limit", "used_at")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self.in_use = 0
        self.used_at = 0.0


class _Ticket:
    __slots__ = ("acquire", "answer")

    def __init__(self, acquire: Acquire, answer: "asyncio.Future[bool]") -> None:
        self.acquire = acquire
        self.answer = answer
        """True: it may run; False: too many wait."""


class Held:
    """A running request's permits."""

    __slots__ = ("_limits", "_permits")

    def __init__(self, permits: "Permits", limits: tuple[PermitLimit, ...]) -> None:
        self._permits = permits
        self._limits = limits

    def release(self) -> None:
        """It is over. Again is no error."""
        limits, self._limits = self._limits, ()
        if limits:
            self._permits.released([limit.subject for limit in limits])


class Permits:
    """Owned by the event loop."""

    def __init__(self) -> None:
        self.round_trips = 0
        """Requests for which the supervisor was asked."""
        self._send: Callable[[Iterable[GatewayToSupervisor]], None] | None = None
        """None: the supervisor is away."""
        self._pools: dict[str, _Pool] = {}
        self._contended: set[str] = set()
        """Subjects that somebody waits for, of those that we hold or held permits of."""
        self._tickets: dict[int, _Ticket] = {}
        self._last_ticket = 0
        self._revision = 0

    @property
    def waiting(self) -> int:
        return len(self._tickets)

    def in_use(self, subject: str) -> int:
        pool = self._pools.get(subject)
        return 0 if pool is None else pool.in_use

    def acquire_idle(self, wanted: tuple[PermitLimit, ...]) -> Held | None:
        """Permits that lie idle here, if there is one of each subject."""
        return Held(self, wanted) if self._take_idle(wanted) else None

    async def acquire(
        self,
        wanted: tuple[PermitLimit, ...],
        *,
        tenant: str,
        weight: float,
        priority: int,
        patience_seconds: float,
        most_waiting: int,
    ) -> Held:
        """A permit of each subject, all at once. While the supervisor is away, this waits for it, too.

        Raises:
            QuotaExceeded: a limit is 0, too many wait already, or it has lasted too long.
        """
        if self._take_idle(wanted):
            return Held(self, wanted)
        for limit in wanted:
            if limit.limit <= 0:
                raise _refused(limit, "so none may run.", retry_after=None)
        ticket = self._ask(wanted, tenant, weight, priority, most_waiting)
        try:
            async with asyncio.timeout(patience_seconds):
                admitted = await ticket.answer
        except TimeoutError:
            self._withdraw(ticket)
            waited = f"this one has waited {patience_seconds:.0f} s for its turn."
            raise _refused(wanted[0], waited) from None
        except BaseException:
            self._withdraw(ticket)
            raise
        if not admitted:
            raise _refused(wanted[0], "and too many wait for their turn already.")
        return Held(self, wanted)

    def released(self, subjects: Iterable[str]) -> None:
        back = []
        now = time.monotonic()
        for subject in subjects:
            pool = self._pools[subject]
            pool.in_use -= 1
            pool.used_at = now
            if subject in self._contended:
                pool.held -= 1
                back.append((subject, 1))
        if back:
            self._give_back(back)

    def retune(self, revision: int, limits: Mapping[str, PermitLimit]) -> None:
        """These are all limits that there are now, by their subjects."""
        self._revision = revision
        changed = []
        for subject, pool in self._pools.items():
            known = limits.get(subject)
            if known is not None and known.limit != pool.limit:
                pool.limit = known.limit
                changed.append((subject, known.limit))
        if changed and self._send is not None:
            self._give_back([(subject, self._idle(subject)) for subject, _ in changed])
            self._send([Limits(revision, tuple(changed))])

    def keep_up(self) -> None:
        """To be called every second."""
        now = time.monotonic()
        idle = [subject for subject, pool in self._pools.items() if now - pool.used_at > IDLE_SECONDS]
        self._give_back([(subject, self._idle(subject)) for subject in idle])
        for subject in idle:
            if not self._pools[subject].held:
                del self._pools[subject]

    # The supervisor's side: see inference.gateway.replicas.

    def connected(self, send: Callable[[Iterable[GatewayToSupervisor]], None]) -> None:
        """To a supervisor that knows nothing of us. What lay idle is its own; who waits, waits there from now on."""
        self._send = send
        self._contended.clear()
        for pool in self._pools.values():
            pool.held = pool.in_use
        holding = tuple((subject, pool.held) for subject, pool in self._pools.items() if pool.held)
        if holding:
            send([Holding(holding)])
        if self._tickets:
            send([ticket.acquire for ticket in self._tickets.values()])

    def disconnected(self) -> None:
        self._send = None
        for pool in self._pools.values():
            pool.held = pool.in_use

    def accept(self, answer: PermitAnswer) -> None:
        match answer:
            case Permitted():
                self._permitted(answer)
            case Crowded(ticket=number):
                if (ticket := self._tickets.pop(number, None)) is not None and not ticket.answer.done():
                    ticket.answer.set_result(False)
            case Contended(subject=subject, waiting=waiting):
                if not waiting:
                    self._contended.discard(subject)
                    return
                self._contended.add(subject)
                if subject in self._pools:
                    self._give_back([(subject, self._idle(subject))])

    def _permitted(self, permitted: Permitted) -> None:
        ticket = self._tickets.pop(permitted.ticket, None)
        if ticket is None:  # it was withdrawn a moment ago
            self._give_back([(subject, 1) for subject in permitted.subjects])
            return
        for subject, limit in ticket.acquire.needs:
            pool = self._pools.setdefault(subject, _Pool(limit))
            pool.held += 1
            pool.in_use += 1
            pool.used_at = time.monotonic()
        if ticket.answer.done():  # its waiter was cancelled in this turn, and has not run yet
            self.released(permitted.subjects)
        else:
            ticket.answer.set_result(True)

    def _take_idle(self, wanted: tuple[PermitLimit, ...]) -> bool:
        pools = self._pools
        for limit in wanted:
            pool = pools.get(limit.subject)
            if pool is None or pool.in_use >= pool.held or pool.held > limit.limit:
                return False
        for limit in wanted:
            pools[limit.subject].in_use += 1
        return True

    def _ask(
        self, wanted: tuple[PermitLimit, ...], tenant: str, weight: float, priority: int, most_waiting: int
    ) -> _Ticket:
        self._last_ticket += 1
        self.round_trips += 1
        acquire = Acquire(
            ticket=self._last_ticket,
            needs=tuple((limit.subject, limit.limit) for limit in wanted),
            revision=self._revision,
            tenant=tenant,
            weight=weight,
            priority=priority,
            most_waiting=most_waiting,
        )
        ticket = self._tickets[acquire.ticket] = _Ticket(acquire, asyncio.get_running_loop().create_future())
        if self._send is not None:
            self._send([acquire])
        return ticket

    def _withdraw(self, ticket: _Ticket) -> None:
        """Nobody waits for it. Where the answer has just come, what it brought is released."""
        number = ticket.acquire.ticket
        if self._tickets.pop(number, None) is not None:
            if self._send is not None:
                self._send([Withdraw(number)])
        elif ticket.answer.done() and not ticket.answer.cancelled() and ticket.answer.result():
            self.released(subject for subject, _ in ticket.acquire.needs)

    def _idle(self, subject: str) -> int:
        """How many lie idle; they are not ours any more."""
        pool = self._pools[subject]
        idle = pool.held - pool.in_use
        pool.held = pool.in_use
        return idle

    def _give_back(self, counts: Iterable[tuple[str, int]]) -> None:
        given: Counter[str] = Counter()
        for subject, count in counts:
            given[subject] += count
        back = tuple((subject, count) for subject, count in given.items() if count)
        if back and self._send is not None:
            self._send([Release(back)])


def _refused(limit: PermitLimit, why: str, retry_after: int | None = 1) -> QuotaExceeded:
    return QuotaExceeded(
        f"{limit.owner} runs at most {limit.limit} requests at the same time ({limit.name}), {why} "
        "Try again later, send fewer at once, or have the limit raised.",
        code="rate_limited",
        retry_after=retry_after,
    )
