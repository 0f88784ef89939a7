"""Windows in SQL: leased by many at once, never above the limit."""

from concurrent.futures import ThreadPoolExecutor
from zoneinfo import ZoneInfo

import pytest
from django.db import connection

from quotas import treasury
from quotas.ledger import Account, Ask, Balance, Unit
from quotas.models import Lease, Window
from quotas.treasury import Holding
from quotas.windows import Period, window_at

NOON = 1_800_014_400


def a_balance(limit: int = 1000) -> Balance:
    account = Account(
        key="model:1/tokens/hour",
        unit=Unit.TOKENS,
        period=Period.HOUR,
        limit=limit,
        name="hourly_token_limit",
        owner="The model 'm'",
    )
    return Balance(account, window_at(Period.HOUR, NOON, ZoneInfo("UTC")))


def taken() -> int:
    return Window.objects.get().taken


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("before", "need", "granted"),
    [
        (0, 1, 500),
        (0, 700, 700),
        (99_000, 1, 250),  # a quarter of what is left
        (99_999, 1, 1),
        (99_990, 20, 10),
        (100_000, 1, 0),
        (200_000, 1, 0),  # the limit was lowered since
    ],
)
def test_what_is_needed_or_a_part_is_leased_and_near_the_end_less(before: int, need: int, granted: int) -> None:
    balance = a_balance(limit=200_000)
    if before:
        treasury.lease(gateway="b" * 32, ask=Ask(balance, before))
    Lease.objects.all().delete()
    leased = treasury.lease(gateway="a" * 32, ask=Ask(a_balance(limit=100_000), need))
    assert (leased.amount, leased.left) == (granted, max(0, 100_000 - before - granted))
    assert taken() == before + granted
    assert Lease.objects.get().granted == granted


@pytest.mark.django_db
def test_what_is_given_back_can_be_leased_again_and_what_is_told_is_kept() -> None:
    balance = a_balance()
    leased = treasury.lease(gateway="a" * 32, ask=Ask(balance, 1000))
    for _ in range(2):  # the answer to the first may have been lost
        treasury.tell({leased.lease: Holding(granted=600, spent=100, reserved=200)})
    lease = Lease.objects.get()
    assert (lease.granted, lease.spent, lease.reserved, taken()) == (600, 100, 200, 600)
    assert treasury.lease(gateway="b" * 32, ask=Ask(balance, 1000)).amount == 400


@pytest.mark.django_db
def test_of_a_dead_process_what_it_had_not_charged_goes_back_once() -> None:
    balance = a_balance()
    dead = treasury.lease(gateway="a" * 32, ask=Ask(balance, 600))
    alive = treasury.lease(gateway="b" * 32, ask=Ask(balance, 100))
    assert treasury.reclaim(gateway="a" * 32, charges=[(dead.lease, 450), (alive.lease, 1)]) == 150
    assert treasury.reclaim(gateway="a" * 32, charges=[(dead.lease, 450)]) == 0
    assert taken() == 550
    assert Lease.objects.get(pk=dead.lease).spent == 450


@pytest.mark.django_db
def test_a_lease_that_a_dead_process_never_wrote_down_goes_back_whole() -> None:
    treasury.lease(gateway="a" * 32, ask=Ask(a_balance(), 600))
    assert treasury.reclaim(gateway="a" * 32, charges=[]) == 600
    assert taken() == 0


@pytest.mark.django_db(transaction=True)
def test_many_at_once_never_lease_more_than_the_limit() -> None:
    def lease_all(number: int) -> int:
        try:
            balance, total = a_balance(limit=10_000), 0
            while amount := treasury.lease(gateway=f"{number:032x}", ask=Ask(balance, 7)).amount:
                total += amount
            return total
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(lease_all, range(8))) == 10_000
    assert taken() == 10_000
