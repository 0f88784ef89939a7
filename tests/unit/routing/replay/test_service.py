"""How quick a model is, from what was recorded of it."""

import random
from typing import Any

import pytest

from routing.replay.records import Outcome
from routing.replay.service import LEAST_ANSWERS, Load, fit, loads
from tests.unit.routing.replay.traces import BASE, PER_PROMPT_TOKEN, PER_TOKEN, a_link, an_arrival, facts


def test_what_a_model_takes_is_found_again() -> None:
    draw = random.Random(3)
    arrivals = [an_arrival(20.0 * number, prompt_tokens=draw.randrange(60, 500)) for number in range(50)]
    held: dict[str, Any] = {"cached_tokens": 50, "links": a_link("system"), "ends": (50,)}
    arrivals += [an_arrival(10.0 + each.at, prompt_tokens=each.prompt_tokens + 1, **held) for each in arrivals]
    service = fit(arrivals, {"a": facts()}).services["a"]
    assert service.prompt == pytest.approx((BASE, PER_PROMPT_TOKEN, 0.0, 0.0))
    assert service.token == pytest.approx((PER_TOKEN, 0.0, 0.0))
    assert service.failed == 0.0 and service.answers == 100


def test_what_runs_beside_and_elsewhere_slows_down() -> None:
    arrivals = []
    for burst in range(40):
        at = 100.0 * burst
        arrivals += [an_arrival(at + place / 100, token_seconds=0.1 * (1 + 0.5 * place)) for place in range(3)]
        arrivals.append(an_arrival(at + 0.03, "b"))
    assert loads(arrivals)[:5] == [Load(0, 0), Load(1, 0), Load(2, 0), Load(0, 3), Load(0, 0)]
    service = fit(arrivals, {"a": facts()}).services["a"]
    assert service.each_token(Load(beside=2)) == pytest.approx(0.2)


def test_who_waits_for_a_lane_slows_nobody_down() -> None:
    first = an_arrival(0.0, prefill_seconds=1.0, first_token_seconds=1.0, completion_tokens=1)
    second = an_arrival(0.5, prefill_seconds=1.0, first_token_seconds=1.5, completion_tokens=1)
    assert second.begin == 1.0
    assert loads([first, second]) == [Load(), Load()]


def test_a_share_of_a_model_s_requests_failed() -> None:
    arrivals = [
        an_arrival(float(number), outcome=Outcome.FAILED if number % 4 == 0 else Outcome.ANSWERED)
        for number in range(100)
    ]
    assert fit(arrivals, {"a": facts()}).services["a"].failed == 0.25


def test_of_a_model_that_answered_little_nothing_is_known() -> None:
    arrivals = [an_arrival(float(number)) for number in range(LEAST_ANSWERS - 1)]
    fitted = fit(arrivals, {"a": facts(), "b": facts()})
    assert not fitted.services and fitted.unknown == {"a": LEAST_ANSWERS - 1, "b": 0}
