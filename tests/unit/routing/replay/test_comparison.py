"""All strategies side by side, and what is concluded."""

import msgspec
import pytest

from routing.config import Routing, Strategy
from routing.replay.comparison import TooFew, compare
from routing.replay.records import Arrival, Outcome
from routing.replay.trace import trace_of
from routing.replay.verdict import LEAST_REQUESTS, By, Comparison, verdict
from tests.unit.routing.replay.traces import a_recording, an_arrival, facts, poisson

TWO = {"a": facts(), "b": facts()}
SOME = (Strategy.ROUND_ROBIN, Strategy.LATENCY_BASED, Strategy.RANDOM)


def requests(number: int = LEAST_REQUESTS, slow: float = 8.0) -> list[Arrival]:
    """Every second one was answered by a slow model."""
    return [
        an_arrival(at, model := "ab"[place % 2], slow=slow if model == "b" else 1.0)
        for place, at in enumerate(poisson(number, 0.6))
    ]


def compared(*arrivals: Arrival, routing: Routing | None = None, by: By = By.FIRST_TOKEN) -> Comparison:
    return compare(trace_of(a_recording(*arrivals, models=TWO, routing=routing)), SOME, by)


@pytest.mark.parametrize("by", list(By))
def test_the_best_comes_first_and_who_is_surely_slower_is_told_apart(by: By) -> None:
    comparison = compared(*requests(), routing=Routing(strategy=Strategy.ROUND_ROBIN), by=by)
    best, *others = comparison.results
    assert best.strategy is Strategy.LATENCY_BASED and best.slower.mean == 0 and not best.distinguishable
    assert all(each.distinguishable and each.slower.low > 0 for each in others)
    assert comparison.verdict.startswith("latency_based would have done best: time ")
    assert "All others are surely slower. In force is round_robin, which is " in comparison.verdict


def test_models_that_are_alike_leave_little_to_tell() -> None:
    comparison = compared(*[an_arrival(60.0 * place, "ab"[place % 2]) for place in range(LEAST_REQUESTS)])
    assert not any(each.distinguishable for each in comparison.results)
    assert comparison.verdict.startswith("No strategy is distinguishable from the best: ")


def test_a_short_recording_gets_numbers_and_no_verdict() -> None:
    comparison = compared(*requests(LEAST_REQUESTS - 1))
    assert comparison.verdict == (
        "Too short for a verdict: 399 requests can be judged, and 400 are the least. Record for longer."
    )
    assert len(comparison.results) == 3


def test_where_one_model_answers_all_there_is_nothing_to_choose() -> None:
    arrivals = [an_arrival(at) for at in poisson(LEAST_REQUESTS, 0.6)]
    assert compared(*arrivals).verdict == "Only one model could answer these requests, so all strategies do the same."


def test_the_same_recording_gives_the_same() -> None:
    assert compared(*requests(100)) == compared(*requests(100))


def test_quantiles_ascend_and_shares_add_up() -> None:
    for result in compared(*requests(100)).results:
        assert result.first_token.p50 <= result.first_token.p95 <= result.first_token.p99
        assert sum(result.shares.values()) == pytest.approx(1.0)
        assert result.first_token.mean.mean < result.total.mean.mean


def test_what_a_model_fails_is_what_choosing_it_costs() -> None:
    arrivals = requests(200)
    failing = [
        msgspec.structs.replace(each, outcome=Outcome.FAILED) if each.model == "a" and place % 8 == 0 else each
        for place, each in enumerate(arrivals)
    ]
    results = {each.strategy: each for each in compared(*failing).results}
    assert results[Strategy.LATENCY_BASED].failed > results[Strategy.ROUND_ROBIN].failed > 0.05


def test_a_simulation_that_is_far_from_what_was_recorded_is_to_be_taken_with_care() -> None:
    comparison = compared(*requests())
    assert comparison.simulated_first_token == pytest.approx(comparison.recorded_first_token, rel=0.5)
    assert "care" not in comparison.verdict
    assert "Take it with care" in verdict(msgspec.structs.replace(comparison, recorded_first_token=60.0))


@pytest.mark.parametrize(
    ("arrivals", "reason"),
    [
        ([an_arrival(float(place), "ab"[place % 2], named=True) for place in range(100)], "All these requests named"),
        ([an_arrival(float(place), "ab"[place % 2]) for place in range(10)], "No model has answered enough"),
    ],
)
def test_where_nothing_can_be_compared_it_says_why(arrivals: list[Arrival], reason: str) -> None:
    with pytest.raises(TooFew, match=reason):
        compared(*arrivals)


def test_a_route_that_nobody_asked_for_is_answered_with_those_that_were() -> None:
    with pytest.raises(TooFew, match=r"route 'drafts'.* There are requests of: auto"):
        compare(trace_of(a_recording(*requests(100), models=TWO), route="drafts"))
