"""Whose turn it is, of those who wait."""

from inference.engine.sequences import Sequence
from inference.engine.turns import AGING_SECONDS, MOST_DEBT_TOKENS, QUANTUM_TOKENS, Turns


def sequence(name: str, tenant: str = "", prompt: int = 10, **more: object) -> Sequence:
    return Sequence(key=name, tokens=[0] * prompt, limit=prompt + 8, tenant=tenant, **more)  # type: ignore[arg-type]


def test_who_came_first_is_first_whatever_the_order_they_are_listed_in() -> None:
    later, first = sequence("later", arrived=2.0), sequence("first", arrived=1.0)
    assert Turns().next([later, first], now=2.0) is first


def test_only_those_of_the_highest_priority_take_turns() -> None:
    low, high = sequence("low", "a", priority=4), sequence("high", "b", priority=5)
    assert Turns().next([low, high], now=0.0) is high
    assert Turns().next([high, low], now=0.0) is high
    old = sequence("old", "a", priority=4, arrived=-2 * AGING_SECONDS)
    assert Turns().next([high, old], now=0.0) is old


def test_a_tenant_who_owes_waits_until_others_had_as_much() -> None:
    turns = Turns()
    waiting = [sequence("mine", "mine"), sequence("theirs", "theirs")]
    for each in waiting:
        turns.enter(each.tenant)
    turns.charge("mine", 2 * QUANTUM_TOKENS)
    assert turns.next(waiting, now=0.0) is waiting[1]


def test_a_tenant_who_has_left_owes_nothing_when_it_comes_again() -> None:
    turns = Turns()
    turns.enter("mine")
    turns.enter("mine")
    turns.charge("mine", MOST_DEBT_TOKENS)
    turns.leave("mine")
    mine, theirs = sequence("mine", "mine"), sequence("theirs", "theirs")
    assert turns.next([mine, theirs], now=0.0) is theirs, "one of its sequences is still here"
    turns.leave("mine")
    assert turns.next([mine, sequence("another", "another")], now=0.0) is mine
