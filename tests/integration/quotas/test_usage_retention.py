"""Old usage is added up without losing any; what nobody needs any more goes."""

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.db.models import Sum

from quotas.models import GatewayLife, Lease, Usage, Window
from quotas.usage.counts import COUNTED
from quotas.usage.retention import (
    DAYS_KEPT,
    GATEWAYS_KEPT,
    HOURS_KEPT,
    WINDOWS_KEPT,
    gateways_prune,
    usage_roll_up,
    windows_prune,
)
from quotas.windows import Period, window_at

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ZONES = ["UTC", "Europe/Berlin", "Asia/Kolkata", "America/St_Johns", "Africa/Cairo"]


def used(starts_at: datetime, period: str = "hour", *, api_key: int | None = 1, **counts: int) -> Usage:
    return Usage.objects.create(
        period=period, starts_at=starts_at, tenant="ada", api_key=api_key, model="tiny", **({"requests": 1} | counts)
    )


def kept() -> list[tuple[str, datetime, int]]:
    return list(Usage.objects.order_by("starts_at", "period").values_list("period", "starts_at", "requests"))


def sums() -> dict[tuple[str, int | None, str], tuple[float, ...]]:
    """All that was counted, by tenant, key and model."""
    rows = Usage.objects.order_by().values_list("tenant", "api_key", "model").annotate(*map(Sum, COUNTED))
    return {row[:3]: row[3:] for row in rows}


# --- Adding up -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("seed", range(3))
def test_no_sum_changes_however_often_it_is_done(zone: str, seed: int) -> None:
    rng = random.Random(f"{zone} {seed}")
    for age in rng.sample(range(24 * 1200), 300):
        Usage.objects.create(
            period="hour",
            starts_at=window_start(Period.HOUR, NOW - HOUR * age, zone),
            tenant=rng.choice(["ada", "bob"]),
            api_key=rng.choice([None, 1, 2]),
            model=rng.choice(["tiny", "large"]),
            **{name: rng.randrange(2**20) for name in COUNTED},
        )
    before = sums()
    for now in (NOW, NOW, NOW + timedelta(days=40), NOW + timedelta(days=800), NOW + timedelta(days=800)):
        usage_roll_up(now=now, zone=zone)
        assert sums() == before
    assert set(Usage.objects.values_list("period", flat=True)) == {"month"}


@pytest.mark.parametrize("zone", ZONES)
def test_days_and_months_begin_where_those_of_limits_do(zone: str) -> None:
    hours = [NOW - timedelta(days=days, hours=7) for days in (91, 240, 800, 1000)]
    for starts_at in hours:
        used(starts_at)
    usage_roll_up(now=NOW, zone=zone)
    periods = [Period.DAY, Period.DAY, Period.MONTH, Period.MONTH]
    expected = {(period.value, window_start(period, at, zone)) for period, at in zip(periods, hours, strict=True)}
    assert {(period, starts_at) for period, starts_at, _ in kept()} == expected


def test_what_is_not_old_stays_as_it_is_and_a_day_is_added_up_as_a_whole() -> None:
    midnight = (NOW - HOURS_KEPT).replace(hour=0)
    used(midnight - HOUR)
    used(midnight - 2 * HOUR)
    used(midnight)  # that day is not over for 90 days
    used(NOW)
    usage_roll_up(now=NOW, zone="UTC")
    assert kept() == [
        ("day", midnight - timedelta(days=1), 2),
        ("hour", midnight, 1),
        ("hour", NOW, 1),
    ]


def test_what_is_written_late_is_added_to_its_day() -> None:
    long_ago = NOW - HOURS_KEPT - timedelta(days=3)
    for _ in range(2):  # as by a gateway that could not reach PostgreSQL
        used(long_ago)
        usage_roll_up(now=NOW, zone="UTC")
    assert kept() == [("day", long_ago.replace(hour=0), 2)]


def test_requests_without_a_key_stay_apart() -> None:
    day = (NOW - HOURS_KEPT - timedelta(days=3)).replace(hour=0)
    for api_key in (None, 1):
        for hour in (3, 4):
            used(day + hour * HOUR, api_key=api_key)
    usage_roll_up(now=NOW, zone="UTC")
    assert set(Usage.objects.values_list("api_key", "requests")) == {(None, 2), (1, 2)}


def test_days_of_more_than_two_years_ago_become_months_which_stay() -> None:
    long_ago = NOW - DAYS_KEPT - timedelta(days=60)
    for day in (3, 4):
        used(long_ago.replace(day=day, hour=0), "day")
    for now in (NOW, NOW + timedelta(days=10_000)):
        usage_roll_up(now=now, zone="UTC")
        assert kept() == [("month", long_ago.replace(day=1, hour=0), 2)]


def window_start(period: Period, at: datetime, zone: str) -> datetime:
    return datetime.fromtimestamp(window_at(period, at.timestamp(), ZoneInfo(zone)).starts_at, UTC)


# --- Forgetting ------------------------------------------------------------------------------------------------------


def a_window(ends_at: datetime, *, leases: int = 2) -> Window:
    window = Window.objects.create(
        account=f"model:{Window.objects.count()}/tokens/hour",
        unit="tokens",
        period="hour",
        starts_at=ends_at - HOUR,
        ends_at=ends_at,
    )
    for number in range(leases):
        Lease.objects.create(window=window, gateway=f"{number:032x}")
    return window


def test_windows_that_are_long_over_go_with_their_leases_and_no_others() -> None:
    over = NOW - WINDOWS_KEPT
    a_window(over - timedelta(seconds=1))
    a_window(over - timedelta(days=30), leases=0)
    stay = [a_window(over), a_window(NOW + HOUR)]
    assert windows_prune(now=NOW) == 2
    assert windows_prune(now=NOW) == 0
    assert list(Window.objects.order_by("id")) == stay
    assert Lease.objects.count() == 4


def test_any_number_of_windows_goes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quotas.usage.retention._BATCH", 3)
    for _ in range(6):
        a_window(NOW - timedelta(days=3))
    assert windows_prune(now=NOW) == 6
    assert not Lease.objects.exists()


def test_gateways_that_have_written_nothing_for_days_are_forgotten() -> None:
    for number, told_at in enumerate((NOW, NOW - GATEWAYS_KEPT, NOW - GATEWAYS_KEPT - HOUR)):
        GatewayLife.objects.create(name=str(number), told_at=told_at)
    assert gateways_prune(now=NOW) == 1
    assert set(GatewayLife.objects.values_list("name", flat=True)) == {"0", "1"}
