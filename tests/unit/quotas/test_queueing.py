"""Who is next of those who wait, between tenants and within them."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from quotas.queueing import AGING_SECONDS, HIGHEST_CLASS, FairQueue, Full

MANY = 10_000


def push(
    queue: FairQueue[str],
    ticket: str,
    tenant: str = "a",
    *,
    priority: int = 5,
    weight: float = 1.0,
    now: float = 0.0,
    most: int = MANY,
) -> str | None:
    return queue.push(ticket, tenant=tenant, weight=weight, priority=priority, now=now, most=most)


def drained(queue: FairQueue[str], now: float = 0.0) -> list[str]:
    order = []
    while (ticket := queue.pop(now)) is not None:
        order.append(ticket)
    return order


def test_within_a_tenant_first_come_is_first_served_and_higher_priorities_go_first() -> None:
    queue: FairQueue[str] = FairQueue()
    for ticket, priority in (("first", 5), ("second", 5), ("urgent", 9), ("whenever", 0)):
        push(queue, ticket, priority=priority)
    assert drained(queue) == ["urgent", "first", "second", "whenever"]


def test_a_low_priority_is_overtaken_only_by_what_comes_soon_after_it() -> None:
    queue: FairQueue[str] = FairQueue()
    push(queue, "low", priority=4)
    push(queue, "soon", priority=5, now=AGING_SECONDS - 0.1)
    push(queue, "late", priority=5, now=AGING_SECONDS + 0.1)
    assert drained(queue, now=2 * AGING_SECONDS) == ["soon", "low", "late"]


def test_a_tenant_that_floods_the_queue_has_every_second_turn_however_long_it_has_waited() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(100):
        push(queue, f"flood {number}")
    order = []
    for second in range(20):
        now = second * AGING_SECONDS
        push(queue, f"own {second}", "b", now=now)
        order += [queue.pop(now), queue.pop(now)]
    assert Counter(str(ticket).split()[0] for ticket in order) == {"flood": 20, "own": 20}


def test_a_tenant_that_was_away_has_saved_nothing_up() -> None:
    queue: FairQueue[str] = FairQueue()
    push(queue, "b 0", "b")
    for number in range(20):
        push(queue, f"a {number}")
    for _ in range(11):
        queue.pop(0.0)
    for number in range(1, 6):
        push(queue, f"b {number}", "b")
    order = drained(queue)
    assert [ticket[0] for ticket in order[:8]].count("b") == 4


def test_weights_are_shares() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(60):
        push(queue, f"a {number}", "a", weight=3.0)
        push(queue, f"b {number}", "b", weight=1.0)
    assert Counter(ticket[0] for ticket in drained(queue)[:40]) == {"a": 30, "b": 10}


def test_a_higher_priority_goes_before_other_tenants_until_they_have_waited_for_long() -> None:
    queue: FairQueue[str] = FairQueue()
    push(queue, "patient", "a", priority=5)
    for number in range(30):
        push(queue, f"urgent {number}", "b", priority=8, now=float(number))
        assert queue.pop(float(number)) == (f"urgent {number}" if number < 3 * AGING_SECONDS else "patient")
        if number >= 3 * AGING_SECONDS:
            return


def test_when_it_is_full_the_crowded_tenant_makes_room() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(4):
        push(queue, f"a {number}", most=4)
    with pytest.raises(Full):
        push(queue, "a 4", most=4)
    assert push(queue, "b 0", "b", most=4) == "a 3"
    assert push(queue, "b 1", "b", most=4) is None or len(queue) <= 4
    assert len(queue) == 4
    with pytest.raises(Full):
        push(queue, "c 0", "c", most=0)


def test_what_is_passed_over_keeps_its_place() -> None:
    queue: FairQueue[str] = FairQueue()
    for ticket in ("one", "two", "three"):
        push(queue, ticket)
    taken = next(ticket for ticket in queue.in_order(0.0) if ticket != "one")
    queue.take(taken, 0.0)
    assert drained(queue) == ["one", "three"]


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.floats(0.1, 10), min_size=2),
    st.integers(1, 200),
)
def test_backlogged_tenants_get_their_shares_within_one_ticket(weights: dict[str, float], turns: int) -> None:
    queue: FairQueue[str] = FairQueue()
    for tenant, weight in weights.items():
        for number in range(turns + 1):
            push(queue, f"{tenant} {number}", tenant, weight=weight)
    got = Counter(str(queue.pop(0.0))[0] for _ in range(turns))
    for one, weight in weights.items():
        for other, other_weight in weights.items():
            assert abs(got[one] / weight - got[other] / other_weight) <= 1 / weight + 1 / other_weight + 1e-6


@given(st.integers(0, HIGHEST_CLASS), st.dictionaries(st.sampled_from("bcdef"), st.floats(0.1, 10), min_size=1))
def test_a_waiting_tenant_is_served_within_its_bound(priority: int, others: dict[str, float]) -> None:
    """The others always have urgent tickets waiting; one is served each tenth of a second."""
    queue: FairQueue[str] = FairQueue()
    push(queue, "mine", "a", priority=priority)
    highest_class_at = (HIGHEST_CLASS - priority) * AGING_SECONDS
    bound = sum(math.ceil(weight) + 1 for weight in others.values())
    number, after = 0, 0
    while True:
        now = number / 10
        for tenant, weight in others.items():
            push(queue, f"{tenant} {number}", tenant, priority=HIGHEST_CLASS, weight=weight, now=now)
        number += 1
        if queue.pop(now) == "mine":
            return
        after += now >= highest_class_at
        assert after <= bound


class Queues(RuleBasedStateMachine):
    """Nothing is lost, nothing comes twice, and within a tenant equals keep their order."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[tuple[str, int, int]] = FairQueue()
        self.waiting: set[tuple[str, int, int]] = set()
        self.number = 0
        self.now = 0.0

    @rule(tenant=st.sampled_from("abc"), priority=st.integers(0, 10), weight=st.sampled_from([0.5, 1.0, 2.0]))
    def push(self, tenant: str, priority: int, weight: float) -> None:
        self.number += 1
        ticket = tenant, priority, self.number
        try:
            displaced = self.queue.push(ticket, tenant=tenant, weight=weight, priority=priority, now=self.now, most=12)
        except Full:
            return
        self.waiting.add(ticket)
        if displaced is not None:
            assert displaced[0] != tenant or displaced in self.waiting
            self.waiting.remove(displaced)

    @precondition(lambda self: self.waiting)
    @rule()
    def pop(self) -> None:
        ticket = self.queue.pop(self.now)
        assert ticket is not None
        self.waiting.remove(ticket)
        earlier = [each for each in self.waiting if each[:2] == ticket[:2] and each[2] < ticket[2]]
        assert earlier == []

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 100))
    def leave(self, which: int) -> None:
        ticket = sorted(self.waiting)[which % len(self.waiting)]
        assert self.queue.remove(ticket)
        assert not self.queue.remove(ticket)
        self.waiting.remove(ticket)

    @rule(seconds=st.sampled_from([0.0, 0.1, 3.0, 60.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def all_are_there(self) -> None:
        assert len(self.queue) == len(self.waiting)
        assert set(self.queue.in_order(self.now)) == self.waiting


TestQueues = Queues.TestCase
TestQueues.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
