"""Every branch of the decision tree, driven by hand: events in, actions out, a clock that only we move."""

from typing import Any

import pytest
from msgspec.structs import replace

from inference.protocol import EngineParameters, ModelSpec, ReplicaState, WorkerStage, WorkerStatus
from inference.supervisor.events import (
    Action,
    Closing,
    Demanded,
    Event,
    Publish,
    Record,
    Revive,
    Start,
    Stop,
    Tick,
    Used,
    Wish,
    WishesRead,
    WorkerBusy,
    WorkerExited,
    WorkerReported,
    WorkerSpawned,
)
from inference.supervisor.reconcile import due_at, step
from inference.supervisor.replica import Desired, Phase, Policy, Replica, State

SPEC = ModelSpec(version_pk=7, model="Tiny", version="1.0.0", files=("/models/Tiny.gguf",))
POLICY = Policy()


class Node:
    """A supervisor's state and the actions of its last step."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self.policy = policy
        self.state = State()
        self.now = 1000.0
        self.did: list[Action] = []

    def send(self, event: Event, after: float = 0.0) -> list[Action]:
        self.now += after
        self.state, self.did = step(self.state, event, self.now, self.policy)
        return self.did

    def pass_time(self) -> float:
        """Jump to the next moment at which time alone changes something; returns how long that took."""
        moment = due_at(self.state, self.policy)
        assert moment is not None, "nothing is due"
        elapsed = moment - self.now
        self.send(Tick(), after=elapsed)
        return elapsed

    def demand(self, after: float = 0.0) -> list[Action]:
        return self.send(Demanded(SPEC), after)

    def desire(self, desired: Desired, after: float = 1.0) -> list[Action]:
        self.now += after
        return self.send(WishesRead(read_at=self.now, wishes=(Wish(SPEC, desired),)))

    def report(self, stage: WorkerStage, **fields: Any) -> list[Action]:
        return self.send(WorkerReported(self.worker, WorkerStatus(stage=stage, **fields)))

    def ask(self) -> None:
        """A demand, and SQL has been read since: it knows of no stop."""
        self.demand()
        self.desire(Desired.ON_DEMAND, after=0.0)

    def load(self) -> None:
        self.ask()
        self.report(WorkerStage.READY)

    def exit(self, reason: str = "killed by SIGKILL", after: float = 0.0) -> list[Action]:
        return self.send(WorkerExited(self.worker, reason), after)

    @property
    def replica(self) -> Replica:
        return self.state.replicas[SPEC.version_pk]

    @property
    def phase(self) -> Phase:
        return self.replica.phase

    @property
    def worker(self) -> int:
        assert self.replica.worker is not None
        return self.replica.worker

    @property
    def starts(self) -> list[Start]:
        return [action for action in self.did if isinstance(action, Start)]

    @property
    def stops(self) -> list[bool]:
        """True for each SIGKILL, False for each SIGTERM."""
        return [action.kill for action in self.did if isinstance(action, Stop)]

    @property
    def recorded(self) -> list[ReplicaState]:
        return [action.observation.observed for action in self.did if isinstance(action, Record)]


@pytest.fixture
def node() -> Node:
    return Node()


# --- Demand and load ---


def test_a_demand_loads_a_cold_version_and_tells_gateways_and_sql(node: Node) -> None:
    node.demand()
    assert node.starts == [Start(worker=1, spec=SPEC)]
    assert node.recorded == [ReplicaState.LOADING]
    assert node.did[-1] == Publish()


def test_a_repeated_demand_while_it_loads_changes_nothing(node: Node) -> None:
    node.demand()
    assert node.demand(after=1) == []


def test_progress_is_published_but_not_recorded(node: Node) -> None:
    node.demand()
    assert node.report(WorkerStage.LOADING, progress=0.5) == [Publish()]


def test_progress_never_goes_back(node: Node) -> None:
    node.demand()
    node.report(WorkerStage.LOADING, progress=0.5)
    assert node.report(WorkerStage.LOADING, progress=0.3) == []


def test_a_worker_that_says_ready_is_ready(node: Node) -> None:
    node.demand()
    node.report(WorkerStage.READY)
    assert node.phase is Phase.READY
    assert node.recorded == [ReplicaState.READY]


def test_the_pid_is_recorded_once_it_is_known(node: Node) -> None:
    node.demand()
    node.send(WorkerSpawned(worker=1, pid=4321, size_bytes=0))
    assert [action.observation.pid for action in node.did if isinstance(action, Record)] == [4321]


def test_a_hanging_load_is_killed_at_its_deadline_and_fails_with_the_reason(node: Node) -> None:
    node.demand()
    assert node.pass_time() == POLICY.load
    assert node.stops == [True]
    node.exit()
    assert node.phase is Phase.FAILED
    assert "did not finish loading within 300 s" in node.replica.reason


def test_the_load_deadline_grows_with_the_size_of_the_files(node: Node) -> None:
    node.demand()
    node.send(WorkerSpawned(worker=1, pid=1, size_bytes=40_000_000_000))
    assert node.pass_time() == 300 + 2000


def test_a_load_that_fails_keeps_the_workers_reason_not_its_exit_status(node: Node) -> None:
    node.demand()
    node.report(WorkerStage.FAILED, reason="the file is truncated")
    node.exit("exited with status 1")
    assert (node.phase, node.replica.reason) == (Phase.FAILED, "the file is truncated")


def test_a_worker_that_failed_but_does_not_exit_is_killed(node: Node) -> None:
    node.demand()
    node.report(WorkerStage.FAILED, reason="no")
    assert node.pass_time() == POLICY.stop
    assert node.stops == [True]


def test_news_of_a_worker_that_is_gone_is_ignored(node: Node) -> None:
    node.load()
    worker = node.worker
    node.exit()
    before = node.state
    assert node.send(WorkerReported(worker, WorkerStatus(stage=WorkerStage.READY))) == []
    assert node.send(WorkerExited(worker, "again")) == []
    assert node.state == before


# --- Crash, back-off, restart ---


def test_a_pinned_worker_that_had_proven_itself_is_restarted_at_once(node: Node) -> None:
    node.desire(Desired.RUNNING)
    node.report(WorkerStage.READY)
    node.exit(after=POLICY.proven)
    assert node.starts == [Start(worker=2, spec=SPEC)]
    assert node.replica.reason == "restarted after: killed by SIGKILL"
    assert node.replica.restarts == 1


def test_a_pinned_worker_that_keeps_crashing_waits_ever_longer_up_to_a_minute(node: Node) -> None:
    node.desire(Desired.RUNNING)
    waits = []
    for _ in range(9):
        node.exit()
        assert node.phase is Phase.FAILED
        waits.append(node.pass_time())
        assert len(node.starts) == 1
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_success_forgives_earlier_crashes(node: Node) -> None:
    node.desire(Desired.RUNNING)
    for _ in range(4):
        node.exit()
        node.pass_time()
    node.report(WorkerStage.READY)
    node.exit(after=POLICY.proven)
    assert node.starts
    node.exit()
    assert node.pass_time() == 1


def test_an_on_demand_worker_that_crashed_waits_for_the_next_demand(node: Node) -> None:
    node.load()
    node.exit(after=POLICY.proven)
    assert node.phase is Phase.FAILED
    assert due_at(node.state, POLICY) is None
    node.demand(after=500)
    assert node.starts


def test_a_demand_during_back_off_is_served_when_it_is_over(node: Node) -> None:
    node.demand()
    node.exit()
    assert node.demand(after=0.25) == []
    assert node.pass_time() == 0.75
    assert node.starts


def test_a_demand_that_nobody_renewed_during_a_long_back_off_starts_nothing(node: Node) -> None:
    node.demand()
    for _ in range(6):
        node.exit()
        node.demand(after=node.replica.retry_at - node.now)
    node.exit()
    node.demand()
    assert due_at(node.state, POLICY) is None  # 60 s of back-off, a demand is fresh for 10
    assert node.send(Tick(), after=100) == []


def test_an_operator_who_asks_for_a_failed_model_does_not_wait_for_its_back_off(node: Node) -> None:
    node.ask()
    for _ in range(5):
        node.exit()
        node.demand(after=node.replica.retry_at - node.now)
    node.exit()
    node.desire(Desired.RUNNING)
    assert node.starts


def test_a_crash_while_draining_ends_cold_and_says_so(node: Node) -> None:
    node.load()
    node.send(WorkerBusy(1, 3))
    node.desire(Desired.STOPPED)
    node.exit("killed by SIGSEGV")
    assert node.phase is Phase.COLD
    assert "killed by SIGSEGV" in node.replica.reason


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


# --- Parameters that were changed ---


OTHERS = replace(SPEC, parameters=EngineParameters(threads=1))


def change_parameters(node: Node, desired: Desired = Desired.ON_DEMAND) -> list[Action]:
    node.now += 1
    return node.send(WishesRead(read_at=node.now, wishes=(Wish(OTHERS, desired),)))


def test_a_worker_with_parameters_of_before_finishes_what_it_has_and_ends(node: Node) -> None:
    node.load()
    node.send(WorkerBusy(node.worker, 1))
    change_parameters(node)
    assert (node.phase, node.replica.reason) == (Phase.DRAINING, "its parameters were changed")
    node.demand()
    assert node.phase is Phase.DRAINING, "whoever asks waits for the next worker"
    node.send(WorkerBusy(node.worker, 0), after=1)
    assert node.stops == [False]
    node.exit()
    assert node.starts == [Start(worker=2, spec=OTHERS)]


def test_without_a_demand_the_new_parameters_wait_for_the_next_one(node: Node) -> None:
    node.load()
    change_parameters(node)
    node.send(Tick(), after=1)
    assert node.exit() and node.phase is Phase.COLD
    node.send(Demanded(OTHERS))
    assert node.starts == [Start(worker=2, spec=OTHERS)]


def test_what_is_kept_loaded_loads_again_at_once(node: Node) -> None:
    node.desire(Desired.RUNNING)
    node.report(WorkerStage.READY)
    change_parameters(node, Desired.RUNNING)
    node.send(Tick(), after=1)
    node.exit()
    assert node.starts == [Start(worker=2, spec=OTHERS)]


def test_a_load_with_parameters_of_before_is_not_waited_for(node: Node) -> None:
    node.ask()
    change_parameters(node)
    assert node.stops == [False]


def test_parameters_that_are_set_back_in_time_leave_the_worker_as_it_was(node: Node) -> None:
    node.load()
    change_parameters(node)
    node.demand()
    node.desire(Desired.ON_DEMAND, after=0.1)
    assert node.phase is Phase.READY


def test_after_a_failed_load_new_parameters_are_tried_at_once(node: Node) -> None:
    node.desire(Desired.RUNNING)
    for _ in range(4):
        node.report(WorkerStage.FAILED, reason="they can't be")
        node.exit()
        if node.phase is Phase.FAILED:
            node.pass_time()
    node.report(WorkerStage.FAILED, reason="they can't be")
    node.exit()
    assert node.phase is Phase.FAILED
    change_parameters(node, Desired.RUNNING)
    assert node.starts == [Start(worker=node.worker, spec=OTHERS)]
