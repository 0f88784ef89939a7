"""PostgreSQL stopped, frozen, late, or shared by two supervisors of one name: models are served all the same."""

import time
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest

from inference.protocol import ModelSpec, ReplicaState
from tests.integration.supervisor.running import NodeProcess, eventually
from tests.own_postgres import OwnPostgres


class Server(OwnPostgres):
    """With a look into its tables past Django, whose settings name another server."""

    def states(self) -> list[str]:
        """What is recorded of each replica."""
        with psycopg.connect(self.url, connect_timeout=5) as session:
            return [state for (state,) in session.execute("SELECT observed FROM registry_replica")]

    def execute(self, statement: LiteralString) -> None:
        with psycopg.connect(self.url, connect_timeout=5) as session:
            session.execute(statement)

    def version(self) -> ModelSpec:
        query = "SELECT v.id, m.name, v.files FROM registry_version v JOIN registry_model m ON m.id = v.model_id"
        with psycopg.connect(self.url, connect_timeout=5) as session:
            pk, name, files = session.execute(query).fetchall()[0]
        return ModelSpec(version_pk=pk, model=name, version="1.0.0", files=tuple(files))


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path / "server")


@pytest.fixture
def node_of(server: Server, tmp_path: Path) -> NodeProcess:
    return NodeProcess(tmp_path, {"DATABASE_URL": server.url})


async def discovered(server: Server, node: NodeProcess) -> ModelSpec:
    """Let the node start, and find a model."""
    await server.migrate()
    node.drop_model("Tiny")
    await node.start()
    await node.logged("Model discovered: Tiny")
    return server.version()


async def test_a_demand_is_served_while_postgresql_is_down_and_recorded_when_it_is_back(
    server: Server, node_of: NodeProcess
) -> None:
    with server.running():
        spec = await discovered(server, node_of)
    await node_of.logged("States can't be recorded")
    gateway = await node_of.gateway()
    await gateway.loaded(spec)
    with server.running():
        await eventually(lambda: server.states() == ["ready"])
        assert await node_of.stop() == 0
        assert server.states() == ["cold"]


async def test_what_was_decided_about_the_cache_stays_in_force_while_postgresql_is_down(
    server: Server, node_of: NodeProcess
) -> None:
    with server.running():
        await server.migrate()
        server.execute(
            "INSERT INTO registry_cacherevision (number, config, author, comment, created_at)"
            """ VALUES (1, '{"global_cache_ram_gb": 0.03125}', 'a test', '', now())"""
        )
        node_of.drop_model("Tiny")
        await node_of.start()
        await node_of.logged("Model discovered: Tiny")
        spec = server.version()
        gateway = await node_of.gateway()
        await gateway.until_caches(lambda caches: caches.configured and caches.ram_bytes == 32 * 1024**2)
    await node_of.logged("States can't be recorded")
    await gateway.loaded(spec)
    await gateway.until_cached(spec, lambda cache: cache.cache.ram.budget_bytes == 32 * 1024**2)


async def test_a_supervisor_that_starts_before_postgresql_registers_and_scans_when_it_can(
    server: Server, node_of: NodeProcess
) -> None:
    node_of.drop_model("Tiny")
    await node_of.start()
    await node_of.logged("States can't be recorded")
    with server.running():
        await server.migrate()  # there is a server without tables for a moment: a fault like any other
        await node_of.logged("Model discovered: Tiny")
        spec = server.version()
        gateway = await node_of.gateway()
        await gateway.loaded(spec)
        await eventually(lambda: server.states() == ["ready"])
        await node_of.stop()


async def test_a_frozen_postgresql_delays_neither_a_demand_nor_the_end(server: Server, node_of: NodeProcess) -> None:
    with server.running():
        spec = await discovered(server, node_of)
        with server.frozen():
            gateway = await node_of.gateway()
            await gateway.loaded(spec)
            started = time.monotonic()
            assert await node_of.stop() == 0
            assert time.monotonic() - started < 6


async def test_a_stop_by_sql_reaches_a_supervisor_whose_connection_was_cut(
    server: Server, node_of: NodeProcess
) -> None:
    with server.running():
        spec = await discovered(server, node_of)
        gateway = await node_of.gateway()
        await gateway.loaded(spec)
        await eventually(lambda: server.states() == ["ready"])
        with psycopg.connect(server.url, autocommit=True) as session:
            session.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND usename = current_user"
            )
            session.execute("UPDATE registry_replica SET desired = 'stopped'")
        await gateway.until(spec, ReplicaState.COLD)
        await node_of.stop()


async def test_a_second_supervisor_of_the_same_node_name_says_so_and_leaves(
    server: Server, node_of: NodeProcess, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with server.running():
        await server.migrate()
        await node_of.start()
        await node_of.logged("Models scanned")
        second = NodeProcess(elsewhere, {"DATABASE_URL": server.url})
        await second.launch()
        assert await second.ended() == 1
        message = second.log[-1]["message"]
        assert "Another supervisor works as node 'here'" in message and "NOPENAI_NODE_NAME" in message
        await node_of.stop()
