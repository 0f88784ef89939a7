"""Windows in SQL: leased by many at once, never above the limit."""

from concurrent.futures import ThreadPoolExecutor
from zoneinfo import ZoneInfo

import pytest
from django.db import connection

from quotas import treasury
from quotas.access.services import key_create, tenant_create
from quotas.ledger import Account, Ask, Balance, Unit
from quotas.models import Lease, Window
from quotas.treasury import Holding
from quotas.usage.counts import UsageCounts, UsageKey
from quotas.usage.services import usage_record
from quotas.windows import Period, window_at
from registry.models import Model

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
    window = Window.objects.get()
    assert (window.taken, window.earlier) == (550, 450)
    assert [lease.pk for lease in Lease.objects.all()] == [alive.lease]


@pytest.mark.django_db
def test_what_a_closed_lease_has_spent_stays_in_its_window() -> None:
    balance = a_balance()
    leased = treasury.lease(gateway="a" * 32, ask=Ask(balance, 600))
    treasury.tell({leased.lease: Holding(granted=250, spent=250, reserved=0)})
    for _ in range(2):
        treasury.close([leased.lease])
    window = Window.objects.get()
    assert (window.taken, window.earlier, Lease.objects.count()) == (250, 250, 0)
    # The clock goes back, and the window is used once more.
    assert treasury.lease(gateway="a" * 32, ask=Ask(balance, 1000)).amount == 750


@pytest.mark.django_db
def test_who_tells_learns_what_all_have_taken() -> None:
    mine = treasury.lease(gateway="a" * 32, ask=Ask(a_balance(), 600))
    treasury.lease(gateway="b" * 32, ask=Ask(a_balance(), 100))
    assert treasury.tell({mine.lease: Holding(granted=200, spent=100, reserved=0)}) == {mine.lease: 300}


@pytest.mark.django_db
def test_how_the_windows_of_now_stand_is_read_for_all_gateways_together() -> None:
    for gateway, spent in (("a" * 32, 70), ("b" * 32, 30)):
        leased = treasury.lease(gateway=gateway, ask=Ask(a_balance(), 200))
        treasury.tell({leased.lease: Holding(granted=200, spent=spent, reserved=50)})
    (reading,) = treasury.readings(NOON + 60)
    assert (reading.account, reading.used, reading.reserved) == ("model:1/tokens/hour", 100, 100)
    assert (reading.gateways, reading.window) == (2, a_balance().window)
    assert treasury.readings(NOON + 3600) == []


@pytest.mark.django_db
def test_a_level_is_told_by_one() -> None:
    treasury.lease(gateway="a" * 32, ask=Ask(a_balance(), 1))
    claims = [
        treasury.level_claim(account="model:1/tokens/hour", starts_at=NOON, level=level) for level in (1, 1, 3, 2)
    ]
    assert claims == [True, False, True, False]


@pytest.mark.django_db
@pytest.mark.parametrize(("unit", "earlier"), [(Unit.TOKENS, 330), (Unit.REQUESTS, 3)])
@pytest.mark.parametrize("subject", ["model", "key", "tenant"])
def test_what_was_used_before_there_was_a_limit_counts(subject: str, unit: Unit, earlier: int) -> None:
    model = Model.objects.create(name="m")
    key, _ = key_create()
    others, _ = key_create(tenant=tenant_create(name="other").name)
    subjects = {"model": f"model:{model.pk}", "key": f"key:{key.line.hex}", "tenant": f"tenant:{key.tenant.pk}"}
    counts = UsageCounts(requests=3, prompt_tokens=300, cached_tokens=100, completion_tokens=30)
    elsewhere = UsageCounts(requests=1, prompt_tokens=1000)
    usage_record(
        gateway="a" * 32,
        batch=1,
        counts={
            UsageKey(hour=NOON, key_pk=key.pk, tenant=key.tenant.name, model="m"): counts,
            UsageKey(hour=NOON - 3600, key_pk=key.pk, tenant=key.tenant.name, model="m"): elsewhere,
            UsageKey(hour=NOON, key_pk=others.pk, tenant="other", model="n"): elsewhere,
        },
    )
    account = Account(
        key=f"{subjects[subject]}/{unit}/hour", unit=unit, period=Period.HOUR, limit=350, name="limit", owner="It"
    )
    balance = Balance(account, window_at(Period.HOUR, NOON, ZoneInfo("UTC")))
    assert treasury.lease(gateway="a" * 32, ask=Ask(balance, 1000)).amount == 350 - earlier


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
