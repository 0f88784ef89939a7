"""How roll-outs are told of."""

from routing.config import Rollout
from routing.experiments.results import VariantCounts
from routing.experiments.rollout import Observed, Progress, advance, begin
from routing.experiments.standing import RolloutState, Standing, standing
from tests.unit.routing.experiments.arms import counts

ROLLOUT = Rollout(steps=(0.1, 0.25), step_seconds=600, step_requests=100)
BEGUN = begin(Observed(now=1000.0, a=counts(50), b=counts(7)))


def at(now: float, progress: Progress = BEGUN, a: int = 50, b: VariantCounts | None = None) -> Standing:
    return standing(ROLLOUT, progress, Observed(now=now, a=counts(a), b=b or counts(7)))


def test_a_step_is_told_with_what_it_still_needs() -> None:
    told = at(1060.4, a=950, b=counts(7) + counts(40, errors=2))
    assert (told.state, told.step, told.steps, told.share_of_b, told.since) == (RolloutState.RUNNING, 1, 2, 0.1, 1000)
    assert (told.a.requests, told.b.requests, told.b.errors) == (900, 40, 2)
    assert told.words == (
        "Step 1 of 2: B has 10 % of the requests. It has answered 38 of the 100 that the step needs at least, "
        "in 60 of 600 s."
    )


def test_a_step_that_has_its_time_waits_for_requests_and_a_clock_that_was_set_back_is_no_negative_time() -> None:
    assert at(9999.0).words.endswith("in 600 of 600 s.")
    assert at(0.0).words.endswith("in 0 of 600 s.")


def test_counting_that_has_begun_anew_is_told_from_there_on() -> None:
    assert at(1060.0, a=3, b=counts(2)).b.requests == 2


def test_a_rollback_is_told_with_its_step_and_its_reason() -> None:
    observed = Observed(now=1001.0, a=counts(950), b=counts(7) + counts(100, errors=90))
    progress, _ = advance(ROLLOUT, BEGUN, observed)
    told = standing(ROLLOUT, progress, observed)
    assert (told.state, told.share_of_b) == (RolloutState.ROLLED_BACK, 0)
    assert told.words.startswith("Rolled back in step 1 of 2 (10 % for B): B failed 90 of 100 requests")


def test_a_complete_one_keeps_its_share() -> None:
    progress = BEGUN
    for step in (1, 2):
        observed = Observed(now=1000.0 + 600 * step, a=counts(1000 * step), b=counts(7) + counts(100 * step))
        progress, _ = advance(ROLLOUT, progress, observed)
    told = standing(ROLLOUT, progress, observed)
    assert (told.state, told.step, told.share_of_b) == (RolloutState.COMPLETE, 2, 0.25)
    assert told.words == "Complete: B keeps 25 % of the requests, and nothing is watched any more."


def test_steps_that_were_removed_meanwhile_are_no_fault() -> None:
    later = Progress(step=5, since=1000.0, a=VariantCounts(), b=VariantCounts())
    assert at(1001.0, later).step == 2
