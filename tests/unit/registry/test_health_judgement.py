"""From what was seen of a version to its health: state in, state out, on a clock of the test's own."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.catalogue import Health
from registry.health.judgement import (
    FAILURES,
    HOLD_SECONDS,
    LEAST_FAULTS,
    LEAST_FAULTY_PARTS,
    LEAST_REQUESTS,
    LOADING_SECONDS,
    RETRY_SECONDS,
    Deployed,
    Judged,
    Seen,
    Standing,
    judge,
)
from registry.health.report import OF_FILES, Check, CheckName, Result
from registry.health.vitals import Latencies, Window

NOW = 1_700_000_000.0
EVERY = 30.0
BOUNDS = (0.1, 1.0, 2.5, 5.0, 10.0)
GIB = 1 << 30


def times(**counts: int) -> Latencies:
    """How many first tokens took at most 100 ms (``quick``), 2.5 to 5 s (``middling``), 5 to 10 s (``slow``)."""
    quick, middling, slow = (counts.get(name, 0) for name in ("quick", "middling", "slow"))
    return Latencies(BOUNDS, (quick, 0, 0, middling, slow, 0))


def window(requests: int, faults: int = 0) -> Window:
    return Window(requests=requests, faults=faults, first_token=times(quick=requests - faults))


def a_replica(state: str = "ready", **fields: Any) -> Deployed:
    return Deployed(**({"node": "here", "state": state} | fields))


def serving(requests: int = 0, faults: int = 0, **fields: Any) -> Seen:
    return Seen(replicas=(a_replica(),), window=window(requests, faults), **fields)


class Checks:
    """A version, checked every 30 s."""

    def __init__(self) -> None:
        self.standing = Standing()
        self.now = NOW

    def find(self, seen: Seen, after: float = EVERY) -> Judged:
        judged = judge(self.standing, seen, self.now)
        self.standing = judged.standing
        self.now += after
        return judged

    def health(self, *seen: Seen) -> list[Health]:
        return [self.find(each).health for each in seen]


def found(judged: Judged, name: CheckName) -> Check:
    (check,) = [check for check in judged.checks if check.name is name]
    return check


def test_every_check_is_told_with_its_reason_and_time() -> None:
    judged = Checks().find(serving(LEAST_REQUESTS))
    assert [check.name for check in judged.checks] == list(OF_FILES)
    assert all(check.reason and check.checked_at == NOW for check in judged.checks)
    assert {check.result for check in judged.checks} == {Result.PASSED}
    assert (judged.health, judged.reason) == (Health.HEALTHY, "")


def test_a_cold_model_whose_file_is_good_is_healthy() -> None:
    judged = Checks().find(Seen())
    assert judged.health is Health.HEALTHY
    assert [check.result for check in judged.checks[1:]] == [Result.SKIPPED] * 3


# --- Files -----------------------------------------------------------------------------------------------------------


def test_a_broken_file_counts_at_once_and_so_does_its_repair() -> None:
    broken = serving(file_fault="vanished")
    checks = Checks()
    assert checks.health(broken, serving(), broken) == [Health.UNHEALTHY, Health.HEALTHY, Health.UNHEALTHY]
    assert checks.find(broken).reason == "vanished"


def test_a_broken_file_is_worse_than_all_else() -> None:
    seen = Seen(file_fault="vanished", replicas=(a_replica("loading", since=NOW - 3600),))
    assert Checks().health(seen) == [Health.UNHEALTHY]


# --- Memory ----------------------------------------------------------------------------------------------------------


def test_a_load_is_shown_once_it_takes_longer_than_a_moment() -> None:
    load = Seen(replicas=(a_replica("loading", since=NOW),))
    checks = Checks()
    assert checks.health(load, load, serving()) == [Health.HEALTHY, Health.LOADING, Health.HEALTHY]
    assert LOADING_SECONDS <= EVERY


def test_a_load_is_no_matter_while_another_worker_serves() -> None:
    both = Seen(replicas=(a_replica("loading", since=NOW - 3600), a_replica(node="there")))
    assert Checks().health(both) == [Health.HEALTHY]


def test_a_worker_that_died_degrades_its_model_until_another_one_serves() -> None:
    died = Seen(replicas=(a_replica("failed", reason="killed by SIGSEGV", failures=1),))
    checks = Checks()
    judged = checks.find(died)
    assert (judged.health, judged.reason) == (Health.DEGRADED, "its last worker failed: killed by SIGSEGV")
    assert checks.health(serving()) == [Health.HEALTHY]


def test_a_worker_that_does_not_answer_degrades_its_model_unless_another_one_does() -> None:
    silent = a_replica(missed=1)
    judged = Checks().find(Seen(replicas=(silent,)))
    assert (judged.health, judged.reason) == (Health.DEGRADED, "its worker on here does not answer")
    assert Checks().health(Seen(replicas=(silent, a_replica(node="there")))) == [Health.HEALTHY]


def test_workers_that_fail_in_a_row_make_it_unhealthy_then_unknown_until_one_serves() -> None:
    failing = Seen(replicas=(a_replica("failed", reason="no memory", failures=FAILURES),))
    cold = Seen(replicas=(a_replica("cold"),))
    checks = Checks()
    assert checks.health(failing) == [Health.UNHEALTHY]
    in_between = checks.health(*[cold] * int(RETRY_SECONDS / EVERY - 1))
    assert set(in_between) == {Health.UNHEALTHY}
    assert checks.health(cold, cold) == [Health.UNKNOWN, Health.UNKNOWN]
    assert "no memory" in checks.find(cold).reason
    again = Seen(replicas=(a_replica("failed", reason="no memory", failures=1),))
    assert checks.health(again, failing, serving(), cold) == [
        Health.UNKNOWN,
        Health.UNHEALTHY,
        Health.HEALTHY,
        Health.HEALTHY,
    ]


def test_a_failed_load_that_still_ends_says_nothing() -> None:
    checks = Checks()
    checks.find(Seen(replicas=(a_replica("failed", failures=FAILURES),)))
    assert checks.health(Seen(replicas=(a_replica("draining"),))) == [Health.UNHEALTHY]


def test_who_asks_for_a_check_need_not_wait_until_what_failed_is_tried_again() -> None:
    checks = Checks()
    checks.find(Seen(replicas=(a_replica("failed", failures=FAILURES),)))
    assert checks.find(Seen(forced=True), after=1.0).health is Health.UNKNOWN
    assert checks.find(Seen()).health is Health.UNKNOWN


def test_failures_on_one_node_are_no_matter_while_another_serves() -> None:
    both = Seen(replicas=(a_replica("failed", failures=9), a_replica(node="there")))
    assert Checks().health(both) == [Health.HEALTHY]


def test_a_worker_beyond_its_nodes_budget_degrades_its_model_when_that_lasts() -> None:
    fat = Seen(replicas=(a_replica(memory_bytes=9 * GIB, budget_bytes=8 * GIB),))
    checks = Checks()
    assert checks.health(fat, fat) == [Health.HEALTHY, Health.DEGRADED]
    assert "9.0 GiB of 8.0 GiB" in checks.find(fat).reason


def test_a_model_larger_than_any_node_says_so_before_it_is_loaded() -> None:
    judged = Checks().find(Seen(size_bytes=40 * GIB, largest_budget_bytes=8 * GIB))
    assert judged.health is Health.DEGRADED
    assert "40.0 GiB" in judged.reason and "8.0 GiB" in judged.reason


# --- Time and errors -------------------------------------------------------------------------------------------------


def slow(share: float) -> Seen:
    return Seen(
        replicas=(a_replica(),),
        window=Window(requests=100, first_token=times(quick=100 - round(share * 100), slow=round(share * 100))),
    )


def test_slow_first_tokens_degrade_a_model_when_that_lasts_two_checks() -> None:
    checks = Checks()
    assert checks.health(slow(0.06), slow(0.06)) == [Health.HEALTHY, Health.DEGRADED]
    assert checks.health(slow(0.0), slow(0.0)) == [Health.DEGRADED, Health.HEALTHY]


def test_what_is_slow_once_changes_nothing() -> None:
    assert set(Checks().health(*[slow(0.06), slow(0.0)] * 5)) == {Health.HEALTHY}


def test_five_of_a_hundred_may_be_slow() -> None:
    assert set(Checks().health(*[slow(0.05)] * 4)) == {Health.HEALTHY}


def test_just_below_the_bound_is_not_kept_again() -> None:
    near = Seen(replicas=(a_replica(),), window=Window(requests=100, first_token=times(quick=50, middling=50)))
    checks = Checks()
    checks.health(slow(0.06), slow(0.06))
    assert set(checks.health(near, near, near)) == {Health.DEGRADED}


def test_one_error_in_a_hundred_degrades_a_model_when_that_lasts() -> None:
    checks = Checks()
    assert checks.health(serving(100, 1), serving(100, 1)) == [Health.HEALTHY, Health.DEGRADED]
    assert found(checks.find(serving(100, 1)), CheckName.ERROR_RATE).reason.startswith("1 of 100")
    assert checks.health(serving(1000, 1), serving(1000, 1)) == [Health.DEGRADED, Health.HEALTHY]


def test_too_few_requests_say_nothing() -> None:
    few = serving(LEAST_REQUESTS - 1, 1)
    checks = Checks()
    assert set(checks.health(few, few, few)) == {Health.HEALTHY}
    assert found(checks.find(few), CheckName.ERROR_RATE).result is Result.SKIPPED


def hopeless(faulty_parts: int = LEAST_FAULTY_PARTS) -> Seen:
    window = Window(requests=LEAST_FAULTS, faults=LEAST_FAULTS, faulty_parts=faulty_parts)
    return Seen(replicas=(a_replica(),), window=window)


def test_a_few_faults_again_and_again_and_nothing_else_are_enough() -> None:
    assert Checks().health(hopeless(), hopeless()) == [Health.HEALTHY, Health.UNHEALTHY]


def test_what_was_lost_with_one_worker_is_no_reason_to_end_the_next() -> None:
    at_once = hopeless(LEAST_FAULTY_PARTS - 1)
    assert Checks().health(at_once, at_once) == [Health.HEALTHY, Health.DEGRADED]


def test_what_nobody_asks_for_any_more_recovers() -> None:
    checks = Checks()
    checks.health(hopeless(), hopeless())
    assert checks.health(Seen(), Seen()) == [Health.DEGRADED, Health.HEALTHY]


def test_checks_that_are_asked_for_in_a_hurry_count_as_one() -> None:
    checks = Checks()
    hurried = [checks.find(serving(100, 50), after=1.0).health for _ in range(int(HOLD_SECONDS))]
    assert set(hurried) == {Health.HEALTHY}
    assert checks.find(serving(100, 50)).health is Health.DEGRADED


def test_a_clock_that_is_set_back_holds_nothing_up() -> None:
    checks = Checks()
    checks.find(serving(100, 50), after=-3600.0)
    assert checks.health(serving(100, 50), serving(100, 50)) == [Health.HEALTHY, Health.DEGRADED]
    broken = Checks()
    broken.find(Seen(replicas=(a_replica("failed", failures=FAILURES),)), after=-3600.0)
    assert set(broken.health(*[Seen()] * int(RETRY_SECONDS / EVERY))) == {Health.UNHEALTHY}
    assert broken.find(Seen()).health is Health.UNKNOWN


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), max_size=40))
def test_a_measured_health_never_changes_twice_within_two_checks(readings: list[tuple[int, int]]) -> None:
    seen = [serving(max(pair), min(pair)) for pair in readings]
    checks = Checks()
    judged = [checks.find(each) for each in seen]
    over = [each.standing.error_rate.over for each in judged]
    changes = [place for place in range(1, len(over)) if over[place] != over[place - 1]]
    assert all(later - earlier >= 2 for earlier, later in pairwise(changes))


# --- What nodes tell, together ---------------------------------------------------------------------------------------


def test_windows_of_several_nodes_add_up() -> None:
    both = window(30, 1) + window(20)
    assert (both.requests, both.faults, both.first_token.total) == (50, 1, 49)


@pytest.mark.parametrize(
    ("counts", "q", "seconds"),
    [((10, 0, 0), 0.95, 0.95), ((0, 10, 0), 0.5, 3.0), ((0, 0, 1), 0.95, 5.0), ((0, 0, 0), 0.95, None)],
)
def test_a_quantile_lies_between_its_bounds(counts: tuple[int, ...], q: float, seconds: float | None) -> None:
    assert Latencies((1.0, 5.0), counts).quantile(q) == (None if seconds is None else pytest.approx(seconds))
