"""Roll-outs in SQL: what nodes tell, and what is decided of it. The test plays the nodes and the clock."""

import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.utils import timezone
from structlog.testing import capture_logs

from routing.experiments.results import ExperimentCounts, VariantCounts
from routing.experiments.rollout import Progress
from tests.unit.routing.experiments.arms import counts

if TYPE_CHECKING:
    from routing.models import ExperimentRollout

pytestmark = pytest.mark.django_db

NAME = "auto: a / b"
STEPS = {"steps": (0.1, 0.5, 1.0), "step_seconds": 600, "step_requests": 100}
TEST = {"ab_test_enabled": True, "ab_test_model_a": "a", "ab_test_model_b": "b", "ab_test_rollout": STEPS}


@pytest.fixture(autouse=True)
def models(db: None) -> None:
    from registry.models import Model

    for name in "ab":
        Model.objects.create(name=name)


def configure(**changes: Any) -> None:
    from routing import services

    services.routing_update(changes=changes, author="a test")


def tell(letter: int, a: VariantCounts, b: VariantCounts, *, node: str = "one", run: str = "first") -> None:
    from routing import rollout_services

    told = {NAME: ExperimentCounts(a=a, b=b)}
    rollout_services.experiment_counts_add(node=node, run=run, letter=letter, counts=told)


def row() -> "ExperimentRollout":
    from routing.models import ExperimentRollout

    return ExperimentRollout.objects.get()


def progress() -> Progress:
    from routing import selectors

    return selectors.progress_value(row())


def share(*, at: float) -> float:
    """B's, in gateways, after what is decided then."""
    from routing import rollout_services, selectors

    rollout_services.rollouts_advance(now=at)
    return round(1.0 - selectors.routing_load().ab_test_split, 9)


def test_a_good_variant_reaches_the_end_in_steps() -> None:
    configure(**TEST)
    begun = progress().since
    tell(1, counts(450), counts(50))
    tell(1, counts(450), counts(50), node="other")
    assert share(at=begun + 599) == 0.1
    with capture_logs() as told:
        assert share(at=begun + 600) == 0.5
        assert share(at=begun + 600) == 0.5
        tell(2, counts(100), counts(100))
        assert share(at=begun + 1200) == 1.0
        tell(3, counts(0), counts(200))
        assert share(at=begun + 1800) == 1.0
    messages = [(each["event"], each["log_level"], each["share_of_b"]) for each in told]
    assert messages == [
        ("Roll-out went on", "info", 0.5),
        ("Roll-out went on", "info", 1.0),
        ("Roll-out complete", "info", 1.0),
    ]
    assert row().state == "complete" and share(at=begun + 9999) == 1.0


def test_a_variant_that_fails_is_rolled_back_with_the_reason() -> None:
    configure(**TEST)
    tell(1, counts(900, errors=3), counts(100, errors=30, unavailable=20))
    with capture_logs() as told:
        assert share(at=progress().since) == 0
    (record,) = told
    assert (record["event"], record["log_level"]) == ("Roll-out rolled back", "warning")
    assert record["reason"].startswith("B failed 50 of 100 requests (50.0 %), A 3 of 900")
    assert share(at=progress().since + 9999) == 0


def test_a_variant_that_takes_long_is_rolled_back() -> None:
    configure(**TEST)
    tell(1, counts(900), counts(100, first_token_seconds=1.6))
    assert share(at=progress().since) == 0
    assert "B's first token typically came after 1.6 s, A's after 0.4 s" in (progress().rolled_back or "")


def test_a_letter_that_comes_again_is_not_counted_again() -> None:
    configure(**TEST)
    for _ in range(2):
        tell(1, counts(450), counts(50))
    assert share(at=progress().since + 600) == 0.1
    tell(2, counts(450), counts(50))
    assert share(at=progress().since + 600) == 0.5


def test_a_supervisor_that_begins_anew_goes_on_where_the_one_before_it_was() -> None:
    configure(**TEST)
    tell(7, counts(450), counts(50))
    tell(1, counts(450), counts(50), run="second")
    assert share(at=progress().since + 600) == 0.5


def test_a_clock_that_was_set_back_lets_the_step_last_its_time_from_then_on() -> None:
    configure(**TEST)
    begun = progress().since
    tell(1, counts(900), counts(100))
    assert share(at=begun - 86_400) == 0.1
    assert share(at=begun - 86_400 + 599) == 0.1
    assert share(at=begun - 86_400 + 600) == 0.5


def test_a_test_that_has_lost_a_model_waits() -> None:
    from registry.models import Model
    from routing import selectors

    configure(**TEST)
    begun = progress().since
    tell(1, counts(900), counts(100))
    Model.objects.filter(name="b").delete()
    assert share(at=begun + 600) == 0.5, "the split, of a test that is off"
    assert not selectors.routing_load().ab_test_enabled and progress().step == 0
    Model.objects.create(name="b")
    assert share(at=begun + 600) == 0.5 and progress().step == 1


def test_an_old_row_says_nothing_of_another_test() -> None:
    """As a gateway may read them that reads while both change."""
    from routing import selectors
    from routing.models import ExperimentRollout

    configure(**TEST)
    ExperimentRollout.objects.update(test="auto: a / c", share_of_b=1.0)
    assert selectors.routing_load().ab_test_split == 0.9
    ExperimentRollout.objects.all().delete()
    assert selectors.routing_load().ab_test_split == 0.9


def test_counts_of_tests_that_are_configured_no_more_are_forgotten_after_a_month() -> None:
    from routing.models import ExperimentTally

    configure(**TEST)
    tell(1, counts(1), counts(1))
    ExperimentTally.objects.update(updated_at=timezone.now() - timedelta(days=31))
    configure(strategy="random")
    assert ExperimentTally.objects.exists()
    configure(ab_test_model_a="b", ab_test_model_b="a")
    assert not ExperimentTally.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_who_decides_does_not_wait_for_an_operator_who_changes_something() -> None:
    from django.db import connection, transaction

    from routing import rollout_services

    configure(**TEST)
    begun = progress().since
    tell(1, counts(900), counts(100))

    def decide() -> None:
        try:
            rollout_services.rollouts_advance(now=begun + 600)
        finally:
            connection.close()

    with transaction.atomic():
        rollout_services.one_at_a_time()
        deciding = threading.Thread(target=decide)
        deciding.start()
        deciding.join(10)
        assert not deciding.is_alive() and progress().step == 0
    decide()
    assert progress().step == 1


def test_counts_that_sql_refuses_hold_up_nothing() -> None:
    from inference.supervisor.experiments import Letter
    from inference.supervisor.experiments_sql import experiments_write
    from routing.models import ExperimentTally

    bad = ExperimentCounts(a=VariantCounts(generation_seconds=float("nan")))
    with capture_logs() as told:
        experiments_write("one", Letter(run="first", number=1, counts={NAME: bad}))
    assert [each["log_level"] for each in told] == ["error"] and not ExperimentTally.objects.exists()
    good = ExperimentCounts(a=VariantCounts(requests=1))
    experiments_write("one", Letter(run="first", number=2, counts={NAME: good}))
    assert ExperimentTally.objects.get().letter == 2
