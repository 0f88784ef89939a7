"""After a fault nothing is written for a while; the while grows."""

import errno

from inference.engine.cache.outage import FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, Outage, after

FULL = OSError(errno.ENOSPC, "No space left on device")


def test_the_reason_says_what_failed_and_when_it_is_tried_again() -> None:
    outage = after(OSError(errno.EACCES, "Permission denied", "/cache"), None, now=100.0)
    assert outage.reason == "/cache: Permission denied; nothing is written for 5 s, then it is tried again"
    assert not outage.is_over(104.9)
    assert outage.is_over(105.0)


def test_each_attempt_doubles_the_wait_up_to_the_longest() -> None:
    outage: Outage | None = None
    waits = []
    for _ in range(9):
        outage = after(FULL, outage, now=0.0)
        waits.append(outage.retry_at)
    assert waits[:3] == [FIRST_RETRY_SECONDS, 2 * FIRST_RETRY_SECONDS, 4 * FIRST_RETRY_SECONDS]
    assert waits[-1] == LONGEST_RETRY_SECONDS


def test_a_clock_that_was_set_back_ends_the_wait() -> None:
    assert after(FULL, None, now=1_000_000.0).is_over(10.0)
