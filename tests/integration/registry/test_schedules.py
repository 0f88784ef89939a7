"""Warm hours: what they keep loaded, and what is stronger than they are."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registry.backends.services import backend_register
from registry.errors import InvalidRequest, ModelNotFound, NotFound
from registry.models import Model, Replica, Version, WarmSchedule
from registry.schedules.services import schedule_add, schedule_remove, schedules_evaluate, schedules_list
from registry.selectors import replicas_desired
from registry.services import node_register, replica_desire, replica_observe, replica_revive
from tests.gguf_files import write_model
from tests.integration.registry.reading import Scan, version_of

TODAY = datetime(2026, 6, 15, tzinfo=UTC)
BEFORE, OPENING, NOON, CLOSING = (TODAY + timedelta(hours=hour) for hour in (7, 8, 12, 18))
TOMORROW = NOON + timedelta(days=1)


@pytest.fixture
def tiny(scan: Scan, models_dir: Path) -> Version:
    """With warm hours from 8 to 18."""
    node_register(name="here", ram_budget_mb=1000, pid=1)
    write_model(models_dir / "tiny.gguf")
    scan()
    version = version_of("tiny")
    replica_observe(node="here", version_pk=version.pk, observed="cold", reason="", pid=None, restarts=0)
    schedule_add(name="tiny", version=None, opens="0 8 * * *", closes="0 18 * * *")
    return version


def desired() -> str:
    (replica,) = replicas_desired("here")
    return replica.desired


def unload(version: Version, at: datetime) -> None:
    """As an operator does it."""
    replica_desire(node=None, version_pk=version.pk, desired="stopped")
    Replica.objects.update(desired_at=at)


@pytest.mark.parametrize(
    ("now", "wanted"), [(BEFORE, "on_demand"), (OPENING, "running"), (NOON, "running"), (CLOSING, "on_demand")]
)
def test_inside_its_hours_a_model_is_kept_loaded_and_outside_it_is_on_demand(
    tiny: Version, now: datetime, wanted: str
) -> None:
    schedules_evaluate(now=now)
    assert desired() == wanted


def test_whatever_was_missed_the_next_look_finds_what_holds(tiny: Version) -> None:
    for now, wanted in ((NOON, "running"), (CLOSING + timedelta(hours=5), "on_demand"), (NOON, "running")):
        schedules_evaluate(now=now)
        assert desired() == wanted


def test_a_second_look_changes_nothing(tiny: Version) -> None:
    schedules_evaluate(now=BEFORE)
    assert schedules_evaluate(now=NOON) == 1
    assert schedules_evaluate(now=NOON + timedelta(minutes=1)) == 0


class TestAnOperatorsUnload:
    def test_is_stronger_than_the_hours_in_which_it_was_made(self, tiny: Version) -> None:
        schedules_evaluate(now=OPENING)
        unload(tiny, at=NOON)
        for minutes in (1, 2, 300):
            schedules_evaluate(now=NOON + timedelta(minutes=minutes))
            assert desired() == "stopped"

    def test_is_so_even_where_nobody_had_looked_at_the_hours_yet(self, tiny: Version) -> None:
        unload(tiny, at=OPENING + timedelta(seconds=20))
        schedules_evaluate(now=OPENING + timedelta(minutes=1))
        assert desired() == "stopped"

    def test_counts_anew_when_it_is_repeated(self, tiny: Version) -> None:
        unload(tiny, at=BEFORE)
        replica_desire(node="here", version_pk=tiny.pk, desired="stopped")
        said = Replica.objects.get().desired_at
        assert said is not None and said > BEFORE + timedelta(days=1)

    def test_ends_with_the_next_hours(self, tiny: Version) -> None:
        schedules_evaluate(now=OPENING)
        unload(tiny, at=NOON)
        schedules_evaluate(now=TOMORROW)
        assert desired() == "running"

    def test_from_before_the_hours_ends_with_them(self, tiny: Version) -> None:
        unload(tiny, at=BEFORE)
        schedules_evaluate(now=BEFORE + timedelta(minutes=1))
        assert desired() == "stopped"
        schedules_evaluate(now=NOON)
        assert desired() == "running"

    def test_is_overruled_by_a_request_and_then_the_hours_hold(self, tiny: Version) -> None:
        schedules_evaluate(now=OPENING)
        unload(tiny, at=NOON)
        replica_revive(node="here", version_pk=tiny.pk)
        assert desired() == "running"


def test_what_an_operator_keeps_loaded_stays_so_after_the_hours(tiny: Version) -> None:
    replica_desire(node="here", version_pk=tiny.pk, desired="running")
    schedules_evaluate(now=NOON)
    schedules_evaluate(now=CLOSING)
    assert desired() == "running"


def test_a_disabled_model_is_not_loaded_by_its_hours(tiny: Version) -> None:
    schedules_evaluate(now=NOON)
    Model.objects.update(enabled=False)
    assert desired() == "stopped"


def test_the_hours_follow_a_promotion_unless_they_name_a_version(tiny: Version) -> None:
    schedules_evaluate(now=NOON)
    Model.objects.update(promoted=None)
    assert desired() == "on_demand"
    WarmSchedule.objects.update(version=tiny)
    assert desired() == "running"


def test_hours_that_are_removed_keep_nothing_loaded(tiny: Version) -> None:
    schedules_evaluate(now=NOON)
    schedule_remove(name="tiny", key=schedules_list(name="tiny").get().pk)
    assert desired() == "on_demand"


def test_hours_that_last_already_are_in_force_at_once(tiny: Version) -> None:
    assert schedule_add(name="tiny", version="1.0.0", opens="* * * * *", closes="0 0 29 2 *").open_since is not None
    assert desired() == "running"


def test_what_is_unknown_is_refused_with_what_is_known(tiny: Version) -> None:
    with pytest.raises(ModelNotFound, match="tiny"):
        schedule_add(name="tinny", version=None, opens="0 8 * * *", closes="0 18 * * *")
    with pytest.raises(NotFound, match=r"1\.0\.0"):
        schedule_add(name="tiny", version="9.0.0", opens="0 8 * * *", closes="0 18 * * *")
    with pytest.raises(NotFound, match=str(schedules_list(name="tiny").get().pk)):
        schedule_remove(name="tiny", key=999_999)


def test_what_is_answered_elsewhere_has_no_warm_hours(db: None) -> None:
    backend_register(name="away", url="https://api.example.com/v1", model="theirs")
    with pytest.raises(InvalidRequest, match="answered elsewhere"):
        schedule_add(name="away", version=None, opens="0 8 * * *", closes="0 18 * * *")
