"""Whether computing gets on, by a clock that a test holds."""

import pytest

from inference.engine.llama import pulse as of_process
from inference.engine.llama.pulse import Pulse

WARM_UP_SECONDS = 2.0


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def pulse(clock: Clock) -> Pulse:
    """Of a slow machine: one token took two seconds."""
    made = Pulse()
    with made.computing(1):
        clock.now += WARM_UP_SECONDS
    return made


def test_who_rests_has_not_stopped(pulse: Pulse, clock: Clock) -> None:
    clock.now += 1e6
    assert not pulse.stopped()


def test_a_large_batch_on_a_slow_machine_has_its_time(pulse: Pulse, clock: Clock) -> None:
    with pulse.computing(512):
        clock.now += 2 * 512 * WARM_UP_SECONDS
        assert not pulse.stopped()
        clock.now += 1
        assert pulse.stopped()


def test_a_call_has_a_minute_at_least(pulse: Pulse, clock: Clock) -> None:
    with pulse.computing(1):
        clock.now += 60
        assert not pulse.stopped()
        clock.now += 1
        assert pulse.stopped()


def test_a_call_that_fails_is_over(pulse: Pulse, clock: Clock) -> None:
    with pytest.raises(ValueError, match="no"), pulse.computing(1):
        raise ValueError("no")
    clock.now += 1e6
    assert not pulse.stopped()


def test_there_is_one_for_the_process() -> None:
    assert isinstance(of_process, Pulse)
