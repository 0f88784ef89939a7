"""Recorded requests, routed again by the real router to simulated models."""

import pytest

from routing.config import Routing, Rules, Strategy
from routing.replay.simulation import Fate, simulate
from routing.replay.trace import Trace, trace_of
from tests.unit.routing.replay.traces import (
    BASE,
    PER_PROMPT_TOKEN,
    PER_TOKEN,
    a_link,
    a_recording,
    an_arrival,
    conversations,
    facts,
    poisson,
)

TWO = {"a": facts(), "b": facts()}


def fates(trace: Trace, strategy: Strategy | None, seed: int = 0) -> list[Fate]:
    """Of requests that were all answered."""
    found = simulate(trace, strategy, seed)
    assert None not in found
    return [fate for fate in found if fate is not None]


def hit_rate(trace: Trace, strategy: Strategy) -> float:
    cached = sum(fate.cached for fate in fates(trace, strategy))
    return cached / sum(job.arrival.prompt_tokens for job in trace.jobs)


def first_token(trace: Trace, strategy: Strategy) -> float:
    found = fates(trace, strategy)
    return sum(fate.first_token for fate in found) / len(found)


def one_slow_model() -> Trace:
    arrivals = [
        an_arrival(at, model := "ab"[number % 2], slow=8.0 if model == "b" else 1.0)
        for number, at in enumerate(poisson(800, 3.0))
    ]
    return trace_of(a_recording(*arrivals, models=TWO))


def much_reuse() -> Trace:
    """Twelve system prompts, and caches that hold seven."""
    models = {model: facts(cache_tokens=7 * 900) for model in "ab"}
    return trace_of(a_recording(*conversations(600, 1.5, prompts=12), models=models))


def test_a_lone_request_takes_what_its_model_takes() -> None:
    arrivals = [an_arrival(10.0 * number, prompt_tokens=100 + number % 7) for number in range(40)]
    trace = trace_of(a_recording(*arrivals, models={"a": facts()}))
    for fate, arrival in zip(fates(trace, Strategy.ROUND_ROBIN), arrivals, strict=True):
        seconds = BASE + PER_PROMPT_TOKEN * arrival.prompt_tokens
        assert fate.first_token == pytest.approx(seconds)
        assert fate.total == pytest.approx(seconds + 10 * PER_TOKEN)


def test_where_prompts_come_again_cache_aware_computes_less_of_them_than_round_robin() -> None:
    trace = much_reuse()
    assert hit_rate(trace, Strategy.CACHE_AWARE) > hit_rate(trace, Strategy.ROUND_ROBIN) + 0.2
    assert first_token(trace, Strategy.CACHE_AWARE) < first_token(trace, Strategy.ROUND_ROBIN)


@pytest.mark.parametrize("strategy", [Strategy.LATENCY_BASED, Strategy.LEAST_LOADED])
def test_where_a_model_is_slow_others_are_asked_more_often_and_answer_sooner(strategy: Strategy) -> None:
    trace = one_slow_model()
    chosen = [fate.model for fate in fates(trace, strategy)]
    assert chosen.count("a") > chosen.count("b")
    assert first_token(trace, strategy) < first_token(trace, Strategy.ROUND_ROBIN)


def test_round_robin_gives_each_model_its_turn() -> None:
    chosen = [fate.model for fate in fates(one_slow_model(), Strategy.ROUND_ROBIN)]
    assert chosen.count("a") == chosen.count("b") == len(chosen) / 2


@pytest.mark.parametrize("strategy", list(Strategy))
def test_the_same_seed_gives_the_same(strategy: Strategy) -> None:
    trace = much_reuse()
    assert simulate(trace, strategy, 7) == simulate(trace, strategy, 7)


def test_another_seed_draws_others() -> None:
    trace = one_slow_model()
    assert simulate(trace, Strategy.RANDOM, 1) != simulate(trace, Strategy.RANDOM, 2)


def test_as_recorded_each_request_goes_to_the_model_that_answered_it() -> None:
    trace = one_slow_model()
    assert [fate.model for fate in fates(trace, None)] == [job.arrival.model for job in trace.jobs]


def test_a_session_stays_where_it_is() -> None:
    arrivals = [
        an_arrival(at, "ab"[number % 2], session=f"s{number % 9}") for number, at in enumerate(poisson(200, 2.0))
    ]
    found = fates(trace_of(a_recording(*arrivals, models=TWO)), Strategy.AFFINITY_BASED)
    homes = {(number % 9, fate.model) for number, fate in enumerate(found)}
    assert len(homes) == 9


def test_who_named_its_model_gets_it_and_is_only_work() -> None:
    arrivals = [
        an_arrival(at, "ab"[number % 2], **({"route": "b", "named": True} if number % 2 else {}))
        for number, at in enumerate(poisson(200, 2.0))
    ]
    trace = trace_of(a_recording(*arrivals, models=TWO))
    found = fates(trace, Strategy.RANDOM)
    assert all(fate.model == "b" for fate in found[1::2])
    assert [job.counts for job in trace.jobs[:4]] == [True, False, True, False]


def test_only_the_strategy_of_the_route_in_question_is_changed() -> None:
    routing = Routing(strategy=Strategy.LEAST_LOADED, routes={"drafts": Rules(candidates=("b",))})
    arrivals = [
        an_arrival(at, "ab"[number % 2], route="auto" if number % 2 else "drafts")
        for number, at in enumerate(poisson(200, 2.0))
    ]
    trace = trace_of(a_recording(*arrivals, models=TWO, routing=routing), route="drafts")
    found = fates(trace, Strategy.ROUND_ROBIN)
    assert all(fate.model == "b" for fate in found[::2])
    assert [job.counts for job in trace.jobs[:2]] == [True, False]


def test_a_request_goes_to_models_that_can_do_what_it_asks() -> None:
    models = {"a": facts(), "b": facts(capabilities=("chat", "tools"))}
    arrivals = [
        an_arrival(at, "ab"[number % 2], capabilities=("tools",) if number % 2 else ())
        for number, at in enumerate(poisson(120, 2.0))
    ]
    found = fates(trace_of(a_recording(*arrivals, models=models)), Strategy.RANDOM)
    assert all(fate.model == "b" for fate in found[1::2])


def test_who_can_be_answered_by_nobody_is_told() -> None:
    arrivals = [an_arrival(at, "ab"[number % 2]) for number, at in enumerate(poisson(120, 2.0))]
    arrivals[100] = an_arrival(arrivals[100].at, "a", capabilities=("vision",))
    found = simulate(trace_of(a_recording(*arrivals, models=TWO)), Strategy.RANDOM)
    assert [number for number, fate in enumerate(found) if fate is None] == [100]


def test_a_model_of_which_too_little_is_known_is_no_candidate() -> None:
    arrivals = [an_arrival(at, "a" if number else "b") for number, at in enumerate(poisson(120, 2.0))]
    trace = trace_of(a_recording(*arrivals, models=TWO))
    assert trace.fitted.unknown == {"b": 1} and trace.left_out == 1
    assert {fate.model for fate in fates(trace, Strategy.ROUND_ROBIN)} == {"a"}


def test_the_next_turn_of_a_conversation_finds_its_last_answer_too() -> None:
    turns = [an_arrival(100.0 * number) for number in range(1, 41)]
    first = an_arrival(0.0, prompt_tokens=100, links=a_link("q1"), ends=(100,))
    links = a_link("q1") + a_link("a1") + a_link("q2")
    second = an_arrival(50.0, prompt_tokens=140, links=links, ends=(100, 120, 140))
    trace = trace_of(a_recording(first, second, *turns, models={"a": facts()}))
    assert fates(trace, Strategy.ROUND_ROBIN)[1].cached == 120


def test_what_a_model_held_before_the_recording_began_it_holds_at_first() -> None:
    turns = [an_arrival(100.0 * number, "ab"[number % 2]) for number in range(2, 82)]
    known = {"links": a_link("system") + a_link("question"), "ends": (80, 100)}
    first = an_arrival(0.0, "a", cached_tokens=78, **known)
    other = an_arrival(50.0, "b", cached_tokens=0, **known)
    trace = trace_of(a_recording(first, other, *turns, models=TWO))
    assert [[each.tokens for each in chain] for chain in trace.held["a"]] == [[80]]
    assert "b" not in trace.held
    assert [fate.cached for fate in fates(trace, None)[:2]] == [80, 0]
    assert fates(trace, Strategy.CACHE_AWARE)[0].model == "a"
