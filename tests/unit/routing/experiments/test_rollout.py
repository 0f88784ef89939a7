"""B's share grows in steps as long as B does well."""

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.config import Rollout
from routing.experiments.results import VariantCounts
from routing.experiments.rollout import Observed, Progress, advance, begin, share_of_b
from tests.unit.routing.experiments.arms import counts, drawn_requests

ROLLOUT = Rollout(steps=(0.1, 0.5, 1.0), step_seconds=600, step_requests=100)
NOTHING = VariantCounts()
START = Observed(now=1000.0, a=NOTHING, b=NOTHING)


class Trial:
    """Plays the clock and what the variants do."""

    def __init__(self, rollout: Rollout = ROLLOUT) -> None:
        self.rollout = rollout
        self.observed = START
        self.progress = begin(START)
        self.share = share_of_b(rollout, self.progress)

    def after(self, seconds: float, a: VariantCounts = NOTHING, b: VariantCounts = NOTHING) -> float:
        """B's share after an event with so much more than the one before."""
        before = self.observed
        return self.sees(Observed(now=before.now + seconds, a=before.a + a, b=before.b + b))

    def sees(self, observed: Observed) -> float:
        self.observed = observed
        self.progress, self.share = advance(self.rollout, self.progress, observed)
        return self.share


def test_a_good_variant_goes_through_all_steps_and_completes() -> None:
    trial = Trial()
    assert trial.share == 0.1
    assert trial.after(600, counts(900), counts(100)) == 0.5
    assert trial.after(600, counts(100), counts(100)) == 1.0
    assert not trial.progress.complete
    assert trial.after(600, NOTHING, counts(200)) == 1.0
    assert trial.progress.complete and trial.progress.rolled_back is None


def test_a_step_needs_both_its_time_and_its_requests() -> None:
    trial = Trial()
    assert trial.after(599, counts(900), counts(500)) == 0.1
    assert trial.after(1) == 0.5
    assert trial.after(10_000, counts(900), counts(99)) == 0.5
    assert trial.after(0, NOTHING, counts(1)) == 1.0


def test_requests_that_b_did_not_answer_are_no_step_forward() -> None:
    trial = Trial()
    assert trial.after(600, counts(1000, errors=20), counts(101, errors=1, unavailable=1)) == 0.1
    assert trial.after(0, NOTHING, counts(1)) == 0.5


def test_one_event_is_one_step_however_much_it_brings() -> None:
    assert Trial().after(10**6, counts(10**4), counts(10**4)) == 0.5


@pytest.mark.parametrize("failed", [counts(40, errors=20), counts(40, unavailable=20)])
def test_b_that_fails_is_rolled_back_before_its_step_ends_and_it_is_said_why(failed: VariantCounts) -> None:
    trial = Trial()
    assert trial.after(5, counts(400, errors=4), failed) == 0.0
    assert trial.progress.rolled_back is not None
    assert trial.progress.rolled_back.startswith("B failed 20 of 40 requests (50.0 %), A 4 of 400 (1.0 %): surely")
    assert trial.progress.rolled_back.endswith("percentage points more, where 1 may be.")


def test_b_that_is_slow_is_rolled_back_and_it_is_said_why() -> None:
    trial = Trial()
    assert trial.after(5, counts(400), counts(60, first_token_seconds=1.2)) == 0.0
    assert trial.progress.rolled_back is not None
    assert "B's first token typically came after 1.2 s, A's after 0.4 s: surely" in trial.progress.rolled_back
    assert trial.progress.rolled_back.endswith("where 1.2 times may be.")


def test_what_is_rolled_back_stays_so_whatever_comes() -> None:
    trial = Trial()
    trial.after(5, counts(400), counts(40, errors=40))
    ended = trial.progress
    assert trial.after(10_000, counts(10**5), counts(10**5)) == 0.0 and trial.progress == ended


def test_what_is_complete_is_watched_no_more() -> None:
    trial = Trial(msgspec.structs.replace(ROLLOUT, steps=(0.5,)))
    assert trial.after(600, counts(100), counts(100)) == 0.5 and trial.progress.complete
    assert trial.after(600, counts(1000), counts(1000, errors=1000)) == 0.5


def test_b_may_be_worse_by_what_is_allowed() -> None:
    trial = Trial(msgspec.structs.replace(ROLLOUT, max_error_increase=0.2, max_latency_ratio=2.0))
    assert trial.after(600, counts(10**4), counts(10**4, errors=1500, first_token_seconds=0.7)) == 0.5


def test_a_step_is_judged_by_itself() -> None:
    """A was slow while B had little; that says nothing of B's step."""
    trial = Trial()
    trial.after(600, counts(10**4, first_token_seconds=2.0), counts(1000, first_token_seconds=2.0))
    assert trial.after(5, counts(500), counts(500, first_token_seconds=0.8)) == 0.0


def test_once_a_is_not_asked_any_more_b_is_held_to_what_a_did_before() -> None:
    trial = Trial()
    trial.after(600, counts(900), counts(100))
    assert trial.after(600, counts(500), counts(500)) == 1.0
    assert trial.after(5, NOTHING, counts(50, errors=25)) == 0.0
    assert "A 0 of 500" in (trial.progress.rolled_back or "")


def test_a_clock_that_is_set_back_makes_a_step_last_at_most_once_more() -> None:
    trial = Trial()
    trial.after(500, counts(900), counts(100))
    assert trial.after(-5000) == 0.1
    assert trial.after(599) == 0.1
    assert trial.after(1) == 0.5


def test_counting_that_begins_anew_begins_the_steps_evidence_anew() -> None:
    trial = Trial()
    trial.after(600, counts(900), counts(100))
    trial.after(300, counts(90), counts(90))
    assert trial.sees(Observed(now=trial.observed.now + 300, a=counts(5), b=counts(5))) == 0.5
    assert trial.after(10, counts(90), counts(99)) == 0.5
    assert trial.after(0, NOTHING, counts(1)) == 1.0


def test_steps_that_an_operator_takes_away_are_not_missed() -> None:
    trial = Trial()
    trial.after(600, counts(900), counts(100))
    trial.after(600, counts(500), counts(500))
    trial.rollout = msgspec.structs.replace(ROLLOUT, steps=(0.1, 0.3))
    assert trial.after(600, counts(500), counts(500)) == 0.3 and trial.progress.complete


def test_without_steps_b_gets_nothing() -> None:
    assert Trial(msgspec.structs.replace(ROLLOUT, steps=())).after(600, counts(900), counts(100)) == 0.0


def test_its_state_outlives_a_process() -> None:
    trial = Trial()
    trial.after(600, counts(900), counts(100))
    assert msgspec.json.decode(msgspec.json.encode(trial.progress), type=Progress) == trial.progress


events = st.tuples(st.floats(-2000, 2000), st.integers(0, 300), st.integers(0, 300), st.floats(0, 1), st.booleans())


@given(st.lists(events, max_size=15))
def test_whatever_happens_the_share_is_of_a_step_that_is_never_left_backwards(
    happenings: list[tuple[float, int, int, float, bool]],
) -> None:
    trial, seen = Trial(), [0.1]
    for seconds, of_a, of_b, failing, restarts in happenings:
        if restarts:
            trial.sees(msgspec.structs.replace(trial.observed, a=NOTHING, b=NOTHING))
        a, b = (counts(each, errors=int(each * failing)) for each in (of_a, of_b))
        seen.append(trial.after(seconds, a, b))
    assert seen == sorted(seen) or (trial.progress.rolled_back and seen[-1] == 0.0)
    assert set(seen) <= {0.0, *ROLLOUT.steps}


def live(rollout: Rollout, seed: int, error_rate_b: float, first_token_seconds_b: float) -> Progress:
    """A roll-out that is looked at after each ten requests, one a second."""
    chance, trial = random.Random(seed), Trial(rollout)
    a, b = drawn_requests(chance, 0.02, 0.4), drawn_requests(chance, error_rate_b, first_token_seconds_b)
    for _ in range(1000):
        to_b = sum(chance.random() < trial.share for _ in range(10))
        more_a = sum((next(a) for _ in range(10 - to_b)), NOTHING)
        trial.after(10, more_a, sum((next(b) for _ in range(to_b)), NOTHING))
        if trial.progress.complete or trial.progress.rolled_back is not None:
            break
    return trial.progress


def test_an_equal_is_hardly_ever_rolled_back() -> None:
    ended = [live(ROLLOUT, seed, 0.02, 0.4) for seed in range(30)]
    assert sum(each.rolled_back is not None for each in ended) <= 2
    assert all(each.complete or each.rolled_back is not None for each in ended)


@pytest.mark.parametrize(("error_rate", "seconds"), [(0.5, 0.4), (0.02, 1.0)])
def test_a_bad_one_is_always_rolled_back(error_rate: float, seconds: float) -> None:
    assert all(live(ROLLOUT, seed, error_rate, seconds).rolled_back for seed in range(20))
