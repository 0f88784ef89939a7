"""A fair queue between tenants: who is next of those who wait. Pure: the time is given.

Between tenants:

1. The highest class first: the priority of the tenant's next ticket, raised by one for every :data:`AGING_SECONDS` in
   which the tenant got nothing although it waited, up to :data:`HIGHEST_CLASS`. (It is the tenant that ages, not the
   ticket: else who floods the queue would have the oldest tickets, and with them every turn.)
2. Within a class tenants take turns in proportion to their weights: start-time fair queueing (Goyal, Vin and Cheng
   1996) with tickets of equal size. A tenant that was away has saved nothing up.

Within a tenant a ticket goes before another if it came earlier, where each step of priority is worth
:data:`AGING_SECONDS`.

Bound: a tenant that waits is in the highest class after (10 − priority) × AGING_SECONDS at the latest; from then on
every other tenant of weight ``w`` gets at most ⌈w / its own weight⌉ + 1 tickets before it gets one. A ticket of its own
is overtaken only by tickets of its tenant that came within (their priority − its priority) × AGING_SECONDS after it.
"""

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

AGING_SECONDS = 5.0
HIGHEST_CLASS = 10

T = TypeVar("T")


class Full(Exception):
    """So many wait that one more may not, and its tenant has as many waiting as any other."""


@dataclass(slots=True, order=True)
class _Entry(Generic[T]):
    rank: float
    """When it came, less what its priority is worth."""
    number: int
    ticket: T = field(compare=False)
    priority: int = field(compare=False)
    came_at: float = field(compare=False)
    tenant: str = field(compare=False)


@dataclass(slots=True)
class _Tenant(Generic[T]):
    weight: float
    tag: float
    """Virtual time at which its next ticket may start."""
    served_at: float
    waiting: list[_Entry[T]] = field(default_factory=list)
    """In order."""

    def class_at(self, now: float) -> int:
        head = self.waiting[0]
        waited = now - max(head.came_at, self.served_at)
        return min(HIGHEST_CLASS, head.priority + int(max(0.0, waited) / AGING_SECONDS))


class FairQueue(Generic[T]):
    """Tickets are anything hashable; each may be in the queue once."""

    def __init__(self) -> None:
        self._tenants: dict[str, _Tenant[T]] = {}
        """Those who wait, and those whose turn is not over in virtual time."""
        self._entries: dict[T, _Entry[T]] = {}
        self._virtual = 0.0
        self._count = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, ticket: T) -> bool:
        return ticket in self._entries

    def push(self, ticket: T, *, tenant: str, weight: float, priority: int, now: float, most: int) -> T | None:
        """Let a ticket wait.

        Args:
            weight: of its tenant, > 0.
            priority: 0–10.
            most: so many tickets may wait in all.

        Returns:
            who had to leave for it: the last one of the tenant that has most waiting for its weight.

        Raises:
            Full: nobody has to.
        """
        displaced = self._make_room(tenant, weight, most) if len(self._entries) >= most else None
        of = self._tenants.get(tenant)
        if of is None:
            of = self._tenants[tenant] = _Tenant(weight, self._virtual, float("-inf"))
        if not of.waiting:
            of.tag = max(of.tag, self._virtual)
        of.weight = weight
        self._count += 1
        entry = _Entry(now - priority * AGING_SECONDS, self._count, ticket, priority, now, tenant)
        self._entries[ticket] = entry
        insort(of.waiting, entry)
        return displaced

    def in_order(self, now: float) -> Iterator[T]:
        """All tickets as their turns come, if each that is passed over keeps its place. To be taken with :meth:`take`;
        the queue must not change before the iterator has ended."""
        waiting = [tenant for tenant in self._tenants.values() if tenant.waiting]
        waiting.sort(key=lambda each: (-each.class_at(now), each.tag, each.waiting[0].number))
        for tenant in waiting:
            for entry in tenant.waiting:
                yield entry.ticket

    def take(self, ticket: T, now: float) -> None:
        """It is its turn: it leaves, and its tenant is charged for it."""
        entry = self._entries[ticket]
        tenant = self._tenants[entry.tenant]
        self.remove(ticket)
        self._virtual = max(self._virtual, tenant.tag)
        tenant.tag = max(tenant.tag, self._virtual) + 1.0 / tenant.weight
        tenant.served_at = now
        self._forget()

    def pop(self, now: float) -> T | None:
        """Take the next ticket; None: nobody waits."""
        ticket = next(self.in_order(now), None)
        if ticket is not None:
            self.take(ticket, now)
        return ticket

    def remove(self, ticket: T) -> bool:
        """It waits no more. False: it did not."""
        entry = self._entries.pop(ticket, None)
        if entry is None:
            return False
        self._tenants[entry.tenant].waiting.remove(entry)
        return True

    def _make_room(self, tenant: str, weight: float, most: int) -> T:
        crowded = max(
            (each for each in self._tenants.values() if each.waiting),
            key=lambda each: len(each.waiting) / each.weight,
            default=None,
        )
        own = self._tenants.get(tenant)
        own_waiting = len(own.waiting) if own is not None else 0
        if most <= 0 or crowded is None or (own_waiting + 1) / weight >= len(crowded.waiting) / crowded.weight:
            raise Full
        last = crowded.waiting[-1].ticket
        self.remove(last)
        return last

    def _forget(self) -> None:
        """Tenants that have nothing here and owe nothing."""
        gone = [name for name, each in self._tenants.items() if not each.waiting and each.tag <= self._virtual]
        for name in gone:
            del self._tenants[name]
        if not self._entries:
            self._tenants.clear()
            self._virtual = 0.0
