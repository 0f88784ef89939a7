"""What gateways and SQL get to see of a replica."""

from msgspec.structs import replace

from inference.protocol import ModelSpec, ReplicaState
from inference.supervisor.replica import Phase, Replica, observation, view

SPEC = ModelSpec(version_pk=7, model="Tiny", version="1.0.0", files=("/t.gguf",))
READY = Replica(spec=SPEC, known_at=0.0, phase=Phase.READY, since=10.0, worker=3, pid=99, ready_at=10.0, progress=1.0)


def seen(replica: Replica) -> tuple[ReplicaState, str | None, float]:
    shown = view(replica, epoch=1_000_000.0, socket_of=lambda worker: f"engine-{worker}.sock")
    return shown.state, shown.socket, shown.progress


def test_a_ready_replica_shows_its_socket() -> None:
    assert seen(READY) == (ReplicaState.READY, "engine-3.sock", 1.0)


def test_while_it_drains_and_stops_its_socket_stays_for_what_runs() -> None:
    for phase in (Phase.DRAINING, Phase.STOPPING):
        assert seen(replace(READY, phase=phase)) == (ReplicaState.DRAINING, "engine-3.sock", 1.0)


def test_a_worker_that_never_was_ready_shows_no_socket() -> None:
    loading = replace(READY, phase=Phase.LOADING, ready_at=None, progress=0.25)
    assert seen(loading) == (ReplicaState.LOADING, None, 0.25)
    assert seen(replace(loading, phase=Phase.STOPPING)) == (ReplicaState.DRAINING, None, 0.0)


def test_times_are_seconds_since_the_epoch_and_a_retry_is_told_only_after_a_failure() -> None:
    failed = replace(READY, phase=Phase.FAILED, worker=None, retry_at=12.0)
    shown = view(failed, epoch=1_000_000.0, socket_of=str)
    assert (shown.since, shown.retry_at) == (1_000_010.0, 1_000_012.0)
    assert view(replace(failed, phase=Phase.COLD), epoch=0.0, socket_of=str).retry_at is None


def test_sql_records_the_state_its_reason_and_the_process() -> None:
    recorded = observation(replace(READY, reason="why", restarts=2))
    assert (recorded.observed, recorded.reason, recorded.pid, recorded.restarts) == (ReplicaState.READY, "why", 99, 2)
