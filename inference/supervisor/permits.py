"""Who may run, where limits on concurrency hold for several gateways: pure, its events come from
:mod:`inference.supervisor.permitting`.

Never more than a limit's permits are out, and as long as somebody waits for a subject no gateway keeps an idle one of
it. Who waits is served in fair order (:mod:`quotas.queueing`), a queue for each first subject of a request (its
model's, if that is limited). A request gets all that it needs at once or nothing, so none holds one permit while it
waits for another, and there is no deadlock. One that needs several may be overtaken by those that need fewer, but only
for :data:`OVERTAKEN_SECONDS`: then what it needs is kept for it.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from inference.protocol import Acquire, Contended, Crowded, PermitSum, Permitted
from quotas.queueing import FairQueue, Full

GRACE_SECONDS = 3.0
"""A supervisor that has just begun grants nothing for so long: gateways that hold permits of the one before it, and
come back within two seconds, say so first."""

OVERTAKEN_SECONDS = 5.0

Effect = tuple[int, Permitted | Crowded | Contended]
"""A gateway's connection, and what it is to be told."""


@dataclass(frozen=True, slots=True)
class _Ticket:
    gateway: int
    number: int
    subjects: tuple[str, ...]
    came_at: float


@dataclass(slots=True)
class _Subject:
    limit: int
    revision: int
    held: Counter[int] = field(default_factory=Counter)
    """By gateway."""
    out: int = 0
    """By all of them."""
    waiting: int = 0
    """Tickets that need it."""
    told: set[int] = field(default_factory=set)
    """Gateways that know it is contended."""


class PermitOffice:
    def __init__(self, now: float) -> None:
        self._opens_at = now + GRACE_SECONDS
        self._subjects: dict[str, _Subject] = {}
        self._queues: dict[str, FairQueue[_Ticket]] = {}
        self._tickets: dict[tuple[int, int], _Ticket] = {}

    def opened(self) -> None:
        """There was no supervisor before: nobody has anything to say first."""
        self._opens_at = -math.inf

    @property
    def waiting(self) -> int:
        return len(self._tickets)

    def sums(self) -> tuple[PermitSum, ...]:
        """Of all subjects that have any out, or that somebody waits for."""
        return tuple(PermitSum(name, subject.out, subject.limit) for name, subject in self._subjects.items())

    def acquire(self, gateway: int, asked: Acquire, now: float) -> list[Effect]:
        for name, limit in asked.needs:
            self._know(name, limit, asked.revision)
        ticket = _Ticket(gateway, asked.ticket, tuple(name for name, _ in asked.needs), now)
        queue = self._queues.setdefault(ticket.subjects[0], FairQueue())
        try:
            displaced = queue.push(
                ticket,
                tenant=asked.tenant,
                weight=asked.weight,
                priority=asked.priority,
                now=now,
                # Who is served at once does not wait.
                most=max(asked.most_waiting, 1 if self._fits(ticket) and not len(queue) else 0),
            )
        except Full:
            return [(gateway, Crowded(asked.ticket))]
        effects: list[Effect] = []
        if displaced is not None:
            self._forget(displaced)
            effects.append((displaced.gateway, Crowded(displaced.number)))
        self._tickets[gateway, ticket.number] = ticket
        for name in ticket.subjects:
            self._subjects[name].waiting += 1
        return effects + self._serve(ticket.subjects, now)

    def withdraw(self, gateway: int, number: int, now: float) -> list[Effect]:
        ticket = self._tickets.get((gateway, number))
        if ticket is None:
            return []
        self._queues[ticket.subjects[0]].remove(ticket)
        self._forget(ticket)
        return self._serve(ticket.subjects, now)

    def release(self, gateway: int, counts: Iterable[tuple[str, int]], now: float) -> list[Effect]:
        changed = []
        for name, count in counts:
            if (subject := self._subjects.get(name)) is not None:
                given = min(count, subject.held[gateway])
                subject.held[gateway] -= given
                subject.out -= given
                changed.append(name)
        return self._serve(changed, now)

    def holding(self, gateway: int, counts: Iterable[tuple[str, int]]) -> None:
        """Of a gateway that was connected to the supervisor before us. Their limits come with the next request."""
        for name, count in counts:
            subject = self._subjects.setdefault(name, _Subject(limit=0, revision=-1))
            subject.held[gateway] += count
            subject.out += count

    def limits(self, revision: int, limits: Iterable[tuple[str, int]], now: float) -> list[Effect]:
        names = []
        for name, limit in limits:
            self._know(name, limit, revision)
            names.append(name)
        return self._serve(names, now)

    def gone(self, gateway: int, now: float) -> list[Effect]:
        """Its connection has ended: all that it held is free, and nobody waits there any more."""
        for key, ticket in list(self._tickets.items()):
            if key[0] == gateway:
                self._queues[ticket.subjects[0]].remove(ticket)
                self._forget(ticket)
        for subject in self._subjects.values():
            subject.out -= subject.held.pop(gateway, 0)
            subject.told.discard(gateway)
        return self._serve(tuple(self._subjects), now)

    def open(self, now: float) -> list[Effect]:
        """The time of grace is over."""
        return self._serve(tuple(self._subjects), now)

    def _know(self, name: str, limit: int, revision: int) -> None:
        subject = self._subjects.setdefault(name, _Subject(limit, revision))
        if revision >= subject.revision:
            subject.limit, subject.revision = limit, revision

    def _forget(self, ticket: _Ticket) -> None:
        del self._tickets[ticket.gateway, ticket.number]
        for name in ticket.subjects:
            self._subjects[name].waiting -= 1

    def _serve(self, names: Iterable[str], now: float) -> list[Effect]:
        """Grant what these subjects have room for now, and have idle ones given back where they have none."""
        effects: list[Effect] = []
        touched = dict.fromkeys(names)
        if now >= self._opens_at:
            for name, queue in list(self._queues.items()):
                for ticket in self._granted(queue, touched, now):
                    effects.append((ticket.gateway, Permitted(ticket.number, ticket.subjects)))
                    touched |= dict.fromkeys(ticket.subjects)
                if not len(queue):
                    del self._queues[name]
        for name in touched:
            effects += self._tell(name)
        return effects

    def _granted(self, queue: FairQueue[_Ticket], touched: Iterable[str], now: float) -> list[_Ticket]:
        """Tickets that run now, if any of these subjects has room for one."""
        if not any(self._has_room(name) for name in touched):
            return []
        kept: set[str] = set()
        granted: list[_Ticket] = []
        for ticket in queue.in_order(now):
            if self._fits(ticket) and kept.isdisjoint(ticket.subjects):
                for name in ticket.subjects:
                    self._subjects[name].held[ticket.gateway] += 1
                    self._subjects[name].out += 1
                granted.append(ticket)
                if not any(self._has_room(name) for name in touched):
                    break
            elif now - ticket.came_at > OVERTAKEN_SECONDS:
                kept.update(ticket.subjects)
        for ticket in granted:
            queue.take(ticket, now)
            self._forget(ticket)
        return granted

    def _has_room(self, name: str) -> bool:
        subject = self._subjects[name]
        return subject.out < subject.limit and subject.waiting > 0

    def _fits(self, ticket: _Ticket) -> bool:
        return all(self._subjects[name].out < self._subjects[name].limit for name in ticket.subjects)

    def _tell(self, name: str) -> list[Effect]:
        """Whoever holds some must know whether they are waited for."""
        subject = self._subjects[name]
        if subject.waiting or subject.out > subject.limit:
            unaware = [gateway for gateway, count in subject.held.items() if count and gateway not in subject.told]
            subject.told.update(unaware)
            return [(gateway, Contended(name, True)) for gateway in unaware]
        aware, subject.told = subject.told, set()
        if not subject.out:
            del self._subjects[name]
        return [(gateway, Contended(name, False)) for gateway in aware]
