"""Warm hours, as a real supervisor keeps them."""

from inference.protocol import ReplicaState
from registry.models import WarmSchedule
from registry.schedules.services import schedule_add, schedule_remove
from tests.integration.supervisor.running import NodeProcess, in_sql


async def test_a_model_is_loaded_by_its_hours_and_not_idle_until_they_end(node: NodeProcess) -> None:
    await node.start(idle_unload=0.1)
    spec = await node.discovered("Tiny")
    gateway = await node.gateway()
    await in_sql(lambda: schedule_add(name="Tiny", version=None, opens="* * * * *", closes="0 0 29 2 *"))
    await gateway.until(spec, ReplicaState.READY)
    # What is asked for besides comes and goes; it stays.
    other = await node.discovered("Other")
    gateway.demand(other)
    await gateway.until(other, ReplicaState.READY)
    await gateway.until(other, ReplicaState.COLD)
    assert gateway.last[spec.version_pk].state is ReplicaState.READY
    key = await in_sql(lambda: WarmSchedule.objects.get().pk)
    await in_sql(lambda: schedule_remove(name="Tiny", key=key))
    cold = await gateway.until(spec, ReplicaState.COLD)
    assert cold.reason == "unused for 0.1 s"
