"""A node with too little memory for all of its models, with real PostgreSQL and stub workers."""

import asyncio

from inference.protocol import ModelSpec, ReplicaState
from registry.models import Footprint
from tests.integration.supervisor.running import Gateway, NodeProcess, eventually, in_sql
from tests.waiting import PATIENCE_SECONDS

COLD, READY, FAILED, DRAINING = ReplicaState.COLD, ReplicaState.READY, ReplicaState.FAILED, ReplicaState.DRAINING
ROOM_FOR_TWO_MB = "150"
"""A tiny model takes 66 MB, of which its process takes 64."""


async def repeated(gateway: Gateway, *specs: ModelSpec) -> None:
    """As gateways do while somebody waits."""
    while True:
        for spec in specs:
            gateway.demand(spec)
        await asyncio.sleep(0.1)


async def test_who_finds_no_memory_waits_in_line_and_another_makes_room(node: NodeProcess) -> None:
    node.environment["NOPENAI_NODE_RAM_MB"] = ROOM_FOR_TWO_MB
    await node.start()
    first, second, third = [await node.discovered(name) for name in ("First", "Second", "Third")]
    gateway = await node.gateway()
    await gateway.loaded(first)
    await gateway.loaded(second)
    asking = asyncio.create_task(repeated(gateway, third))
    waits = await gateway.until(third, COLD)
    assert waits.place == 1 and waits.reason == "it waits for 66 MB of memory"
    ready = await gateway.until(third, READY)
    asking.cancel()
    assert ready.place == 0
    left = [seen for seen in (gateway.last[first.version_pk], gateway.last[second.version_pk]) if seen.state != READY]
    assert len(left) == 1, "no more made room than had to"


async def test_what_never_fits_is_failed_at_once_with_the_arithmetic(lone_node: NodeProcess) -> None:
    lone_node.environment["NOPENAI_NODE_RAM_MB"] = "64"
    await lone_node.start()
    tiny = lone_node.drop_model("Tiny")
    spec = ModelSpec(version_pk=1, model="Tiny", version="1.0.0", files=(str(tiny),))
    gateway = await lone_node.gateway()
    gateway.demand(spec)
    refused = await gateway.until(spec, FAILED)
    assert refused.never_fits and refused.retry_at is None
    assert "this node has 64 MB (NOPENAI_NODE_RAM_MB)" in refused.reason


async def test_what_a_worker_took_is_in_sql_and_known_after_a_restart(node: NodeProcess) -> None:
    await node.start()
    spec = await node.discovered("Tiny")
    gateway = await node.gateway()
    await gateway.loaded(spec)
    await eventually(Footprint.objects.filter(version_id=spec.version_pk, node__name="here").exists)
    row = await in_sql(lambda: Footprint.objects.get())
    assert 0 < row.ready_bytes <= row.peak_bytes

    def forge() -> int:
        return Footprint.objects.update(ready_bytes=10**15, peak_bytes=10**15)

    await node.stop()
    await in_sql(forge)
    await node.start()
    again = await node.gateway()
    await again.until_caches(lambda caches: caches.configured)  # SQL has been read
    async with asyncio.timeout(PATIENCE_SECONDS):
        asking = asyncio.create_task(repeated(again, spec))
        refused = await again.until(spec, FAILED)
        asking.cancel()
    assert refused.never_fits and "measured +" in refused.reason
