"""A gateway among two nodes: its own, and another one behind a real door. Tests play both supervisors."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest_asyncio

from inference.nodes.door import Door
from inference.nodes.identity import Identity
from inference.nodes.passage import Passage
from inference.protocol import NodeView, ReplicaState
from registry.catalogue import Model, NodeEntry
from registry.nodes.doors import Address
from tests.catalogue import a_model, a_version
from tests.integration.gateway.conftest import StartRig
from tests.integration.gateway.rig import Rig, ScriptedSupervisor, StubProcess, a_view
from tests.waiting import PATIENCE_SECONDS, until

KEY = b"the installation's secret"
ABLE = frozenset({"chat", "completion"})
M = a_model("m", a_version("m", 1, capabilities=ABLE))
TWICE = a_model("m", a_version("m", 1, capabilities=ABLE, replicas=2))
CLOSED = NodeView(takes=False)


class There:
    """Another node: its supervisor, its workers and its door."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.supervisor = ScriptedSupervisor(directory / "supervisor.sock")
        self.entry: NodeEntry
        self._address = Address("127.0.0.1", 0)
        self._door: Door

    async def start(self) -> None:
        await self.supervisor.start()
        self._door = Door(self.directory, Identity("there", KEY).server())
        self._address = await self._door.open(self._address)
        self.entry = NodeEntry(name="there", address=self._address)

    async def stop(self) -> None:
        self._door.close()
        await self.supervisor.stop()

    async def worker(self, rig: Rig, model: Model, *arguments: str) -> StubProcess:
        """Ready, and known to be."""
        worker = await rig.process(model, self.directory, *arguments)
        self.supervisor.publish(msgspec.structs.replace(worker.view, node="there"))
        await until(lambda: any(view.node == "there" for view in rig.gateway.nodes.ready(1)))
        return worker


@pytest_asyncio.fixture
async def there(tmp_path: Path) -> AsyncIterator[There]:
    node = There(tmp_path / "there")
    await node.start()
    yield node
    await node.stop()


async def two_nodes(start_rig: StartRig, there: There, *models: Model) -> Rig:
    rig = await start_rig(*(models or (M,)), passage=Passage(Identity("here", KEY)))
    rig.feed.join(there.entry)
    await until(lambda: all(link.connected for link in rig.gateway.nodes) and there.supervisor.has_gateway)
    return rig


async def replica_of(rig: Rig, **fields: Any) -> str:
    """Who has answered."""
    response, body = await rig.chat(**fields)
    assert response.status == 200, body
    return response.headers["x-nopenai-replica"]


async def demanded(supervisor: ScriptedSupervisor) -> int:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return (await supervisor.demanded.get()).version_pk


class TestAnswers:
    async def test_a_model_that_is_ready_elsewhere_answers(self, start_rig: StartRig, there: There) -> None:
        rig = await two_nodes(start_rig, there)
        worker = await there.worker(rig, M)
        assert await replica_of(rig) == f"there/{worker.process.pid}"

    async def test_a_stream_passes_through_the_door(self, start_rig: StartRig, there: There) -> None:
        rig = await two_nodes(start_rig, there)
        await there.worker(rig, M)
        async with rig.chatting(stream=True) as response:
            text = (await response.read()).decode()
        assert response.headers["x-nopenai-replica"].startswith("there/")
        assert text.rstrip().endswith("data: [DONE]")

    async def test_of_two_replicas_the_less_busy_one_answers(self, start_rig: StartRig, there: There) -> None:
        rig = await two_nodes(start_rig, there)
        own = await rig.worker(M, "--hang-after", "0")
        other = await there.worker(rig, M)
        async with own.watched() as load:
            hanging = asyncio.create_task(rig.chat())
            await load.until(running=1)
            assert await replica_of(rig) == f"there/{other.process.pid}"
        hanging.cancel()

    async def test_its_idle_timer_is_renewed_where_it_is(self, start_rig: StartRig, there: There) -> None:
        rig = await two_nodes(start_rig, there)
        await there.worker(rig, M)
        await replica_of(rig)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await there.supervisor.in_use.get() == (1,)
        assert rig.supervisor.in_use.empty()

    async def test_what_became_of_a_request_is_told_where_it_was_served(
        self, start_rig: StartRig, there: There
    ) -> None:
        rig = await two_nodes(start_rig, there)
        await there.worker(rig, M)
        await replica_of(rig)
        async with asyncio.timeout(PATIENCE_SECONDS):
            counted = await there.supervisor.counted.get()
        assert counted.served[1].requests == 1
        assert not counted.models


class TestLoss:
    async def test_when_a_node_is_lost_its_streams_end_and_others_go_on(
        self, start_rig: StartRig, there: There
    ) -> None:
        rig = await two_nodes(start_rig, there)
        other = await there.worker(rig, M, "--hang-after", "2")
        async with rig.chatting(stream=True) as response:
            await response.content.readuntil(b"\n\n")
            own = await rig.worker(M)
            await there.stop()
            rest = (await response.read()).decode()
            assert "worker_failed" in rest and "[DONE]" not in rest
            for _ in range(10):
                assert await replica_of(rig) == f"here/{own.process.pid}"
        assert other.process.returncode is None
        await there.start()

    async def test_a_request_that_has_no_token_yet_goes_to_the_other_replica(
        self, start_rig: StartRig, there: There
    ) -> None:
        rig = await two_nodes(start_rig, there)
        other = await there.worker(rig, M, "--hang-after", "0")
        async with other.watched() as load:
            asking = asyncio.create_task(replica_of(rig))
            await load.until(running=1)
        own = await rig.worker(M)
        await other.kill()
        assert await asking == f"here/{own.process.pid}"

    async def test_a_lost_replica_does_not_close_the_model(self, start_rig: StartRig, there: There) -> None:
        """Its failures are its own: the model's breaker stays closed while another replica answers."""
        rig = await two_nodes(start_rig, there)
        own = await rig.worker(M)
        gone = str(there.directory / "engine-99.sock")
        there.supervisor.publish(a_view(M, ReplicaState.READY, node="there", socket=gone))
        await until(lambda: len(rig.gateway.nodes.ready(1)) == 2)
        assert {await replica_of(rig) for _ in range(20)} == {f"here/{own.process.pid}"}
        assert not rig.gateway.state.targets.of(M.promoted).breaker.suspicious  # type: ignore[arg-type]

    async def test_what_a_lost_node_said_is_forgotten_and_heard_again(self, start_rig: StartRig, there: There) -> None:
        rig = await two_nodes(start_rig, there)
        worker = await there.worker(rig, M)
        await there.stop()
        await until(lambda: 1 not in rig.gateway.nodes.view)
        assert not any(link.view for link in rig.gateway.nodes), "it would count again when the link is back"
        await there.start()
        await until(lambda: bool(rig.gateway.nodes.ready(1)))
        assert await replica_of(rig) == f"there/{worker.process.pid}"

    async def test_health_names_the_node_that_can_not_be_reached(self, start_rig: StartRig, there: There) -> None:
        rig = await two_nodes(start_rig, there)
        await there.stop()
        await until(lambda: not all(link.connected for link in rig.gateway.nodes))
        async with rig.client.get("/health") as response:
            report = await response.json()
        assert report["status"] == "degraded"
        assert {name: node["reachable"] for name, node in report["nodes"].items()} == {"here": True, "there": False}
        assert any("'there' can't be reached" in reason for reason in report["reasons"])
        await there.start()

    async def test_a_node_that_is_no_more_is_left(self, start_rig: StartRig, there: There) -> None:
        rig = await two_nodes(start_rig, there)
        await there.worker(rig, M)
        rig.feed.join()
        await until(lambda: not there.supervisor.has_gateway)
        assert not rig.gateway.nodes.ready(1)
        assert [link.node for link in rig.gateway.nodes] == ["here"]

    async def test_a_node_that_moved_is_found_at_its_new_address(self, start_rig: StartRig, there: There) -> None:
        rig = await two_nodes(start_rig, there)
        door = Door(there.directory, Identity("there", KEY).server())
        address = await door.open(Address("127.0.0.1", 0))
        rig.feed.join(NodeEntry(name="there", address=address))
        worker = await there.worker(rig, M)
        assert await replica_of(rig) == f"there/{worker.process.pid}"
        door.close()


class TestDemand:
    async def ask(self, rig: Rig) -> "asyncio.Task[str]":
        return asyncio.create_task(replica_of(rig))

    async def test_a_cordoned_node_is_not_asked_to_load(self, start_rig: StartRig, there: There) -> None:
        rig = await two_nodes(start_rig, there)
        rig.supervisor.describe(CLOSED)
        await until(lambda: not rig.gateway.nodes.own.about.takes)
        asking = await self.ask(rig)
        assert await demanded(there.supervisor) == 1
        worker = await there.worker(rig, M)
        assert await asking == f"there/{worker.process.pid}"
        assert rig.supervisor.demanded.empty()

    async def test_one_that_failed_there_is_loaded_here(self, start_rig: StartRig, there: There) -> None:
        rig = await two_nodes(start_rig, there)
        rig.supervisor.describe(CLOSED)
        await until(lambda: not rig.gateway.nodes.own.about.takes)
        asking = await self.ask(rig)
        await demanded(there.supervisor)
        rig.supervisor.describe(NodeView())
        there.supervisor.publish(a_view(M, ReplicaState.FAILED, node="there", reason="boom", retry_at=4e9))
        assert await demanded(rig.supervisor) == 1
        own = await rig.worker(M)
        assert await asking == f"here/{own.process.pid}"

    async def test_where_all_nodes_are_closed_a_cold_model_is_refused_at_once(
        self, start_rig: StartRig, there: There
    ) -> None:
        rig = await two_nodes(start_rig, there)
        for supervisor in (rig.supervisor, there.supervisor):
            supervisor.describe(CLOSED)
        await until(lambda: not any(link.about.takes for link in rig.gateway.nodes))
        response, body = await rig.chat()
        assert response.status == 503
        assert "cordoned" in body["error"]["message"]

    async def test_who_asks_while_the_supervisor_ends_waits_for_the_next_one(self, start_rig: StartRig) -> None:
        rig = await start_rig(M)
        rig.supervisor.describe(NodeView(takes=False, ends=True))
        await until(lambda: rig.gateway.nodes.own.about.ends)
        asking = await self.ask(rig)
        assert await demanded(rig.supervisor) == 1
        await rig.supervisor.stop()
        await rig.supervisor.start()
        own = await rig.worker(M)
        assert await asking == f"here/{own.process.pid}"

    async def test_a_model_that_wants_two_nodes_is_asked_of_both(self, start_rig: StartRig, there: There) -> None:
        rig = await two_nodes(start_rig, there, TWICE)
        asking = await self.ask(rig)
        assert await demanded(rig.supervisor) == await demanded(there.supervisor) == 1
        worker = await rig.worker(TWICE)
        assert await asking == f"here/{worker.process.pid}"

    async def test_who_waits_on_a_node_that_is_lost_is_served_by_another(
        self, start_rig: StartRig, there: There
    ) -> None:
        rig = await two_nodes(start_rig, there)
        rig.supervisor.describe(CLOSED)
        await until(lambda: not rig.gateway.nodes.own.about.takes)
        asking = await self.ask(rig)
        await demanded(there.supervisor)
        there.supervisor.publish(a_view(M, ReplicaState.LOADING, node="there"))
        await until(lambda: 1 in rig.gateway.nodes.view)
        rig.supervisor.describe(NodeView())
        await there.stop()
        assert await demanded(rig.supervisor) == 1
        own = await rig.worker(M)
        assert await asking == f"here/{own.process.pid}"
        await there.start()
