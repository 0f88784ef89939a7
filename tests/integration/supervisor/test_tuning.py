"""Parameters from SQL to the worker's command line, and what it measures back to SQL and to the next worker."""

import asyncio
from pathlib import Path

import msgspec

from inference.protocol import EngineParameters, Measured, ModelSpec, ReplicaState
from registry import editing, services, tuning
from registry.models import Node, Tuning
from tests.integration.supervisor.running import Gateway, NodeProcess, eventually, in_sql, replica_row
from tests.stub_worker.supervisor import TUNED
from tests.waiting import PATIENCE_SECONDS


def options_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def parameters_of(pid: int) -> EngineParameters:
    (text,) = (option.partition("=")[2] for option in options_of(pid) if option.startswith("--parameters="))
    return msgspec.json.decode(text, type=EngineParameters)


def desire(spec: ModelSpec, desired: str) -> int:
    return services.replica_desire(node=None, version_pk=spec.version_pk, desired=desired)


async def ready(gateway: Gateway, spec: ModelSpec) -> int:
    """Load it by a wish in SQL, so that SQL has been read; returns the worker's pid."""
    await eventually(Node.objects.filter(name="here").exists)  # a scan may be faster than the node's registering
    await in_sql(lambda: desire(spec, "running"))
    await gateway.until(spec, ReplicaState.READY)
    await eventually(lambda: replica_row(spec).observed == "ready")
    pid = (await in_sql(lambda: replica_row(spec))).pid
    assert pid is not None
    return pid


async def cold(gateway: Gateway, spec: ModelSpec) -> None:
    await in_sql(lambda: desire(spec, "stopped"))
    await gateway.until(spec, ReplicaState.COLD)


async def test_what_a_worker_measures_is_in_sql_and_the_next_one_computes_with_it(node: NodeProcess) -> None:
    await node.start()
    spec = await node.discovered("Tiny")
    gateway = await node.gateway()
    assert "--tune" in options_of(await ready(gateway, spec))
    await eventually(Tuning.objects.exists)
    row = await in_sql(lambda: Tuning.objects.select_related("version").get())
    assert row.parameters == {"threads": 2} and row.holds
    assert msgspec.convert(row.measured, tuple[Measured, ...]) == TUNED.measured
    await cold(gateway, spec)
    pid = await ready(gateway, spec)
    assert parameters_of(pid) == EngineParameters(threads=2)
    assert "--tune" not in options_of(pid)


async def test_parameters_that_are_set_reload_a_worker_that_is_kept_loaded(node: NodeProcess) -> None:
    await node.start()
    spec = await node.discovered("Tiny")
    gateway = await node.gateway()
    first = await ready(gateway, spec)
    await in_sql(lambda: editing.version_update(name="Tiny", number="1.0.0", parameters={"threads": 1, "lanes": 4}))
    draining = await gateway.until(spec, ReplicaState.DRAINING)
    assert draining.reason == "its parameters were changed"
    second = await ready(gateway, spec)
    assert second != first
    assert parameters_of(second) == EngineParameters(threads=1, lanes=4)
    assert "--tune" in options_of(second), "under other parameters nothing is known"


async def test_what_was_forgotten_is_measured_again_by_one_of_the_next_loads(node: NodeProcess) -> None:
    await node.start()
    spec = await node.discovered("Tiny")
    gateway = await node.gateway()
    await ready(gateway, spec)
    await eventually(Tuning.objects.exists)
    assert await in_sql(lambda: tuning.tunings_forget(name="Tiny", number="1.0.0")) == 1
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await in_sql(Tuning.objects.exists):
            await cold(gateway, spec)
            await ready(gateway, spec)
