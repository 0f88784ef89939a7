"""How a node's versions are doing reaches SQL, and a check makes their health of it."""

from pathlib import Path

import msgspec

from inference.protocol import (
    DURATION_BOUNDS_SECONDS,
    Counted,
    Durations,
    ModelSpec,
    ReplicaState,
    ServedCounts,
)
from registry.health.models import HealthTransition, ReplicaVitals
from registry.health.services import health_check
from registry.health.vitals import Vitals
from registry.models import Version
from tests.integration.supervisor.running import NodeProcess, eventually, in_sql, replica_row


def told(spec: ModelSpec) -> Vitals | None:
    row = ReplicaVitals.objects.filter(replica__version_id=spec.version_pk).first()
    return None if row is None else msgspec.convert(row.vitals, Vitals)


def served(spec: ModelSpec, requests: int, faults: int) -> Counted:
    times = (requests - faults,) + (0,) * len(DURATION_BOUNDS_SECONDS)
    counts = ServedCounts(requests=requests, faults=faults, first_token=Durations(counts=times, seconds=1.0))
    return Counted(models={}, served={spec.version_pk: counts})


def check(node: NodeProcess, *, now: float) -> str:
    health_check(models_dirs=(node.models_dir,), starter_model=False, now=now)
    return Version.objects.get().health


async def test_what_gateways_count_becomes_the_health_of_a_model(node: NodeProcess) -> None:
    await node.start()
    spec = await node.discovered("Tiny")
    gateway = await node.gateway()
    gateway.send(served(spec, 40, 8))
    await gateway.loaded(spec)
    await eventually(lambda: (vitals := told(spec)) is not None and vitals.window.requests == 40)

    vitals = await in_sql(lambda: told(spec))
    assert vitals is not None and vitals.memory_bytes is not None and vitals.memory_bytes > 1 << 20
    await eventually(lambda: replica_row(spec).observed == "ready")
    assert [await in_sql(lambda now=now: check(node, now=now)) for now in (0.0, 30.0)] == ["healthy", "degraded"]  # type: ignore[misc]


async def test_loads_that_fail_in_a_row_keep_a_model_from_requests(node: NodeProcess) -> None:
    await node.start("--fail-load", "cannot allocate memory")
    spec = await node.discovered("Tiny")
    gateway = await node.gateway()
    for _ in range(3):
        gateway.demand(spec)
        await gateway.until(spec, ReplicaState.LOADING)
        await gateway.until(spec, ReplicaState.FAILED)
    await eventually(lambda: (vitals := told(spec)) is not None and vitals.failures == 3)

    assert await in_sql(lambda: check(node, now=0.0)) == "unhealthy"

    cold = await gateway.until(spec, ReplicaState.COLD)
    assert "unhealthy" in cold.reason
    reason = await in_sql(lambda: HealthTransition.objects.filter(after="unhealthy").get().reason)
    assert "cannot allocate memory" in reason


async def test_a_gguf_replaced_under_a_running_worker_ends_it_and_leaves_a_new_version(
    node: NodeProcess, tmp_path: Path
) -> None:
    from tests.gguf_files import write_model

    await node.start()
    spec = await node.discovered("Tiny")
    gateway = await node.gateway()
    await gateway.loaded(spec)
    await eventually(lambda: replica_row(spec).observed == "ready")
    write_model(tmp_path / "next.gguf", name="Tiny", context_length=1024).replace(node.models_dir / "Tiny.gguf")

    await in_sql(lambda: health_check(models_dirs=(node.models_dir,), starter_model=False))

    await gateway.until(spec, ReplicaState.COLD)
    states = await in_sql(lambda: list(Version.objects.order_by("patch").values_list("health", flat=True)))
    assert states == ["unhealthy", "healthy"]
