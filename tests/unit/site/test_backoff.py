"""When a crashed child is started again."""

from nopenai_site.up.backoff import HEALTHY_AFTER_SECONDS, LONGEST_DELAY_SECONDS, Backoff


def _delays(*uptimes: float) -> list[float]:
    backoff, delays = Backoff(), []
    for uptime in uptimes:
        backoff = backoff.after_exit(uptime_seconds=uptime)
        delays.append(backoff.delay_seconds)
    return delays


def test_the_delay_doubles_from_a_tenth_of_a_second() -> None:
    assert _delays(0, 0, 0, 0) == [0.1, 0.2, 0.4, 0.8]


def test_the_delay_has_an_end() -> None:
    assert _delays(*[0.0] * 2000)[-1] == LONGEST_DELAY_SECONDS


def test_a_child_that_ran_well_begins_anew() -> None:
    assert _delays(0, 0, HEALTHY_AFTER_SECONDS, 0) == [0.1, 0.2, 0.1, 0.2]
