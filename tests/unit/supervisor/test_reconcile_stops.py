"""Stops, drains, idle times and the end: branches of the decision tree, driven by hand."""

import pytest
from msgspec.structs import replace

from inference.protocol import ReplicaState, WorkerStage
from inference.supervisor.events import (
    Closing,
    Revive,
    Start,
    Tick,
    Used,
    Wish,
    WishesRead,
    WorkerBusy,
)
from inference.supervisor.reconcile import due_at
from inference.supervisor.replica import Desired, Phase
from tests.unit.supervisor.hand_driven import POLICY, SPEC, Node

# --- Stop, drain, revive ---


def test_a_stopped_idle_worker_is_told_to_exit_once_gateways_could_hear_of_it(node: Node) -> None:
    node.load()
    node.desire(Desired.STOPPED)
    assert (node.phase, node.stops) == (Phase.DRAINING, [])
    assert node.pass_time() == pytest.approx(POLICY.drain_settle)
    assert node.stops == [False]
    node.exit("exited with status 0")
    assert node.phase is Phase.COLD
    assert node.recorded == [ReplicaState.COLD]


def test_draining_waits_for_what_runs(node: Node) -> None:
    node.load()
    node.send(WorkerBusy(1, 2))
    node.desire(Desired.STOPPED)
    assert node.send(Tick(), after=20) == []
    node.send(WorkerBusy(1, 1))
    assert node.stops == []
    node.send(WorkerBusy(1, 0))
    assert node.stops == [False]


def test_what_does_not_finish_within_the_drain_time_is_cut_off_and_counted(node: Node) -> None:
    node.load()
    node.send(WorkerBusy(1, 2))
    node.desire(Desired.STOPPED)
    assert node.pass_time() == POLICY.drain
    assert node.stops == [False]
    assert "2 requests were cut off" in node.replica.reason


def test_a_worker_deaf_to_sigterm_is_killed_and_killed_again(node: Node) -> None:
    node.load()
    node.desire(Desired.STOPPED)
    node.pass_time()
    for _ in range(3):
        assert node.pass_time() == pytest.approx(POLICY.stop)
        assert node.stops == [True]


def test_a_stop_while_it_loads_does_not_wait(node: Node) -> None:
    node.ask()
    node.desire(Desired.STOPPED)
    assert (node.phase, node.stops) == (Phase.STOPPING, [False])


def test_the_demand_that_a_stop_came_after_does_not_bring_the_model_back(node: Node) -> None:
    node.ask()
    node.desire(Desired.STOPPED)
    node.exit("exited with status 0")
    assert (node.phase, node.starts) == (Phase.COLD, [])


def test_a_demand_after_the_stop_turns_it_to_on_demand_once_it_is_cold(node: Node) -> None:
    node.load()
    node.desire(Desired.STOPPED)
    node.pass_time()
    node.demand()
    assert (node.phase, node.starts) == (Phase.STOPPING, [])
    node.exit("exited with status 0")
    assert node.did[:2] == [Start(worker=2, spec=SPEC), Revive(SPEC.version_pk)]
    assert node.replica.desired is Desired.ON_DEMAND


def test_a_reading_of_sql_from_before_the_revival_does_not_stop_it_again(node: Node) -> None:
    node.desire(Desired.STOPPED)
    read_at = node.now
    node.demand(after=0.1)
    node.send(WishesRead(read_at=read_at, wishes=(Wish(SPEC, Desired.STOPPED),)), after=0.1)
    assert node.phase is Phase.LOADING
    node.desire(Desired.STOPPED)
    assert node.replica.phase is Phase.STOPPING  # this one began later: an operator stopped it again


def test_a_stop_from_before_our_start_yields_to_a_demand_that_came_before_sql(node: Node) -> None:
    node.demand()
    assert node.desire(Desired.STOPPED)[0] == Revive(SPEC.version_pk)
    assert node.phase is Phase.LOADING


def test_a_stopped_version_that_failed_is_cold(node: Node) -> None:
    node.ask()
    node.exit()
    node.desire(Desired.STOPPED)
    assert node.phase is Phase.COLD


def test_a_draining_worker_that_is_wanted_again_goes_on_serving(node: Node) -> None:
    node.load()
    node.pass_time()
    assert node.phase is Phase.DRAINING
    node.demand(after=0.1)
    assert node.replica.phase is Phase.READY


def test_a_barred_version_is_drained_and_its_demands_wait_until_it_is_allowed(node: Node) -> None:
    node.load()
    node.desire(Desired.BARRED)
    node.pass_time()
    node.exit("exited with status 0")
    assert node.demand() == []
    node.desire(Desired.ON_DEMAND)
    assert node.starts


def test_a_version_that_sql_no_longer_names_is_drained(node: Node) -> None:
    node.load()
    node.send(WishesRead(read_at=node.now + 1, wishes=()), after=1)
    assert node.phase is Phase.DRAINING


def test_a_reading_of_sql_from_before_the_first_demand_does_not_bar_it(node: Node) -> None:
    read_at = node.now
    node.demand(after=0.1)
    node.send(WishesRead(read_at=read_at, wishes=()), after=0.1)
    assert node.phase is Phase.LOADING


# --- Idle ---


def test_an_unused_on_demand_model_is_unloaded_after_its_idle_time(node: Node) -> None:
    node.load()
    assert node.pass_time() == 900
    assert (node.phase, node.replica.reason) == (Phase.DRAINING, "unused for 900 s")


def test_use_starts_the_idle_time_again(node: Node) -> None:
    node.load()
    node.send(Used((7, 99)), after=600)
    assert node.pass_time() == 900


def test_a_busy_worker_is_never_idle(node: Node) -> None:
    node.load()
    node.send(WorkerBusy(1, 1))
    assert due_at(node.state, POLICY) is None
    node.send(WorkerBusy(1, 0), after=5000)
    assert node.pass_time() == 900


def test_a_pinned_model_is_never_idle(node: Node) -> None:
    node.desire(Desired.RUNNING)
    node.report(WorkerStage.READY)
    assert due_at(node.state, POLICY) is None


def test_idle_time_zero_means_never() -> None:
    node = Node(replace(POLICY, idle_unload=0.0))
    node.load()
    assert due_at(node.state, node.policy) is None


# --- The end ---


def test_at_the_end_every_worker_is_told_to_exit_without_draining(node: Node) -> None:
    node.load()
    node.send(WorkerBusy(1, 5))
    node.send(Closing())
    assert node.stops == [False]
    assert not node.state.closed
    node.exit("exited with status 0")
    assert node.state.closed
    assert node.recorded == [ReplicaState.COLD]


def test_at_the_end_a_deaf_worker_is_killed_sooner(node: Node) -> None:
    node.load()
    node.desire(Desired.STOPPED)
    node.pass_time()
    node.send(Closing())
    assert node.pass_time() == POLICY.shutdown_stop
    assert node.stops == [True]


def test_after_the_end_nothing_starts(node: Node) -> None:
    node.desire(Desired.RUNNING)
    node.send(Closing())
    node.exit("exited with status 0")
    node.demand(after=100)
    assert node.starts == []
    assert node.state.closed
