"""Loads, crashes and back-off: branches of the decision tree, driven by hand."""

from inference.protocol import ReplicaState, WorkerStage, WorkerStatus
from inference.supervisor.events import (
    Publish,
    Record,
    Start,
    Tick,
    WorkerBusy,
    WorkerExited,
    WorkerReported,
    WorkerSpawned,
)
from inference.supervisor.reconcile import due_at
from inference.supervisor.replica import Desired, Phase
from tests.unit.supervisor.hand_driven import POLICY, SPEC, Node

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
