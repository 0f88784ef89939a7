"""Who keeps failing is left alone for a while."""

from routing.breaker import FAILURES, FIRST_SECONDS, LONGEST_SECONDS, Breaker, State


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES):
        breaker.failed(now)
    return breaker


def test_it_opens_after_so_many_failures_in_a_row() -> None:
    breaker = Breaker()
    for _ in range(3):
        for _ in range(FAILURES - 1):
            breaker.failed(0.0)
        assert breaker.lets_pass(0.0)
        breaker.succeeded()
    assert opened().state(0.0) is State.OPEN and not opened().lets_pass(0.0)


def test_after_its_time_one_request_tries_and_a_success_closes_it() -> None:
    breaker = opened()
    now = FIRST_SECONDS
    assert breaker.state(now) is State.HALF_OPEN and breaker.lets_pass(now)
    breaker.began(now)
    assert not breaker.lets_pass(now)
    breaker.succeeded()
    assert breaker.state(now) is State.CLOSED and breaker.lets_pass(now)


def test_a_failure_then_opens_it_for_twice_as_long_up_to_a_bound() -> None:
    breaker, now, lasted = opened(), 0.0, FIRST_SECONDS
    for _ in range(10):
        now += lasted
        breaker.began(now)
        breaker.failed(now)
        lasted = min(LONGEST_SECONDS, 2 * lasted)
        assert breaker.state(now + lasted - 0.01) is State.OPEN
        assert breaker.state(now + lasted) is State.HALF_OPEN


def test_a_try_whose_client_left_says_nothing_and_another_may_try() -> None:
    breaker = opened()
    breaker.began(FIRST_SECONDS)
    breaker.withdrawn()
    assert breaker.state(FIRST_SECONDS) is State.HALF_OPEN and breaker.lets_pass(FIRST_SECONDS)
