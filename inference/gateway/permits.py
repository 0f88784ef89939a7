"""Places among the requests that may run at once: this gateway's part of what the supervisor hands out.

Permits of requests that have ended are kept for a moment and used again without asking, so that one gateway alone asks
for as many as ever run at once, and not for each request. As soon as somebody else waits for a subject, idle ones go
back, and each that is released: the supervisor then decides who is next, over all gateways.
"""

import asyncio
import time
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


class Pool:
    """Of one subject: what is here of its permits."""

    __slots__ = ("contended", "held", "in_use", "limit", "subject", "used_at")

    def __init__(self, limit: PermitLimit) -> None:
        self.subject = limit.subject
        self.limit = limit.limit
        self.held = 0
        self.in_use = 0
        self.used_at = 0.0
        self.contended = False
        """Somebody waits for it, here or at another gateway."""


class _Ticket:
    __slots__ = ("acquire", "answer", "pools")

    def __init__(self, acquire: Acquire, pools: tuple[Pool, ...], answer: "asyncio.Future[bool]") -> None:
        self.acquire = acquire
        self.pools = pools
        self.answer = answer
        """True: it may run; False: too many wait."""


class Held:
    """A running request's permits."""

    __slots__ = ("_permits", "_pools")

    def __init__(self, permits: "Permits", pools: tuple[Pool, ...]) -> None:
        self._permits = permits
        self._pools = pools

    def release(self) -> None:
        """It is over. Again is no error."""
        pools, self._pools = self._pools, ()
        if pools:
            self._permits.released(pools)


class Permits:
    """Owned by the event loop."""

    def __init__(self) -> None:
        self.round_trips = 0
        """Requests for which the supervisor was asked."""
        self._send: Callable[[Iterable[GatewayToSupervisor]], None] | None = None
        """None: the supervisor is away."""
        self._pools: dict[str, Pool] = {}
        self._tickets: dict[int, _Ticket] = {}
        self._last_ticket = 0
        self._revision = 0

    @property
    def waiting(self) -> int:
        return len(self._tickets)

    def in_use(self, subject: str) -> int:
        pool = self._pools.get(subject)
        return 0 if pool is None else pool.in_use

    def pools(self, wanted: tuple[PermitLimit, ...]) -> tuple[Pool, ...]:
        """Of each subject: as good as these limits, until :meth:`retune`."""
        return tuple(self._pool(limit) for limit in wanted)

    def acquire_idle(self, pools: tuple[Pool, ...]) -> Held | None:
        """Permits that lie idle here, if there is one of each subject."""
        for pool in pools:
            if pool.in_use >= pool.held or pool.held > pool.limit:
                return None
        for pool in pools:
            pool.in_use += 1
        return Held(self, pools)

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
        pools = self.pools(wanted)
        if (held := self.acquire_idle(pools)) is not None:
            return held
        for limit in wanted:
            if limit.limit <= 0:
                raise _refused((limit,), "so none may run.", retry_after=None)
        ticket = self._ask(wanted, tenant, weight, priority, most_waiting)
        try:
            async with asyncio.timeout(patience_seconds):
                admitted = await ticket.answer
        except TimeoutError:
            self._withdraw(ticket)
            waited = f"this one has waited {patience_seconds:.0f} s for its turn."
            raise _refused(wanted, waited) from None
        except BaseException:
            self._withdraw(ticket)
            raise
        if not admitted:
            raise _refused(wanted, "and too many wait for their turn already.")
        return Held(self, pools)

    def released(self, pools: Iterable[Pool]) -> None:
        contended = []
        now = time.monotonic()
        for pool in pools:
            pool.in_use -= 1
            pool.used_at = now
            if pool.contended:
                contended.append(pool)
        if contended:
            self._give_back_idle(contended)

    def retune(self, revision: int, limits: Mapping[str, PermitLimit]) -> None:
        """These are all limits that there are now, by their subjects."""
        self._revision = revision
        changed = []
        for subject, pool in list(self._pools.items()):
            known = limits.get(subject)
            if known is None:
                if not pool.held and not self._tickets:  # which may bring some
                    del self._pools[subject]
            elif known.limit != pool.limit:
                pool.limit = known.limit
                changed.append(pool)
        if changed and self._send is not None:
            self._give_back_idle(changed)
            self._send([Limits(revision, tuple((pool.subject, pool.limit) for pool in changed))])

    def keep_up(self) -> None:
        """To be called every second."""
        before = time.monotonic() - IDLE_SECONDS
        self._give_back_idle([pool for pool in self._pools.values() if pool.held and pool.used_at < before])

    # The supervisor's side: see inference.gateway.supervisor_link.

    def connected(self, send: Callable[[Iterable[GatewayToSupervisor]], None]) -> None:
        """To a supervisor that knows nothing of us. What lay idle is its own; who waits, waits there from now on."""
        self._send = send
        for pool in self._pools.values():
            pool.held, pool.contended = pool.in_use, False
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
                if (pool := self._pools.get(subject)) is not None:
                    pool.contended = waiting
                    if waiting:
                        self._give_back_idle([pool])

    def _permitted(self, permitted: Permitted) -> None:
        ticket = self._tickets.pop(permitted.ticket, None)
        if ticket is None:  # it was withdrawn a moment ago
            self._release([(subject, 1) for subject in permitted.subjects])
            return
        now = time.monotonic()
        for pool in ticket.pools:
            pool.held += 1
            pool.in_use += 1
            pool.used_at = now
        if ticket.answer.done():  # its waiter was cancelled in this turn, and has not run yet
            self.released(ticket.pools)
        else:
            ticket.answer.set_result(True)

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
        ticket = self._tickets[acquire.ticket] = _Ticket(
            acquire, self.pools(wanted), asyncio.get_running_loop().create_future()
        )
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
            self.released(ticket.pools)

    def _pool(self, limit: PermitLimit) -> Pool:
        pool = self._pools.get(limit.subject)
        if pool is None:
            pool = self._pools[limit.subject] = Pool(limit)
        return pool

    def _give_back_idle(self, pools: Iterable[Pool]) -> None:
        idle = []
        for pool in pools:
            idle.append((pool.subject, pool.held - pool.in_use))
            pool.held = pool.in_use
        self._release(idle)

    def _release(self, counts: Iterable[tuple[str, int]]) -> None:
        back = tuple((subject, count) for subject, count in counts if count)
        if back and self._send is not None:
            self._send([Release(back)])


def _refused(limits: Iterable[PermitLimit], why: str, retry_after: int | None = 1) -> QuotaExceeded:
    """Only the supervisor knows which of them is the full one."""
    told = " and ".join(
        f"{limit.owner} runs at most {limit.limit} requests at the same time ({limit.name})" for limit in limits
    )
    return QuotaExceeded(
        f"{told}, {why} Try again later, send fewer at once, or have the limit raised.",
        code="rate_limited",
        retry_after=retry_after,
    )
