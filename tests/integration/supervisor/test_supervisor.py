"""A supervisor's process with real PostgreSQL and stub workers: demand, crash, stop, end."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from inference.protocol import (
    Demand,
    FrameDecoder,
    Generate,
    Hello,
    InUse,
    ModelSpec,
    ReplicaState,
    WorkerToGateway,
    encode_frame,
    read_messages,
)
from registry import services
from registry.models import Model, Node, Replica
from tests.integration.supervisor.running import (
    NodeProcess,
    eventually,
    in_sql,
    is_alive,
    replica_row,
)

COLD, LOADING, READY = ReplicaState.COLD, ReplicaState.LOADING, ReplicaState.READY
DRAINING, FAILED = ReplicaState.DRAINING, ReplicaState.FAILED


def spec_without_sql(pk: int = 1) -> ModelSpec:
    return ModelSpec(version_pk=pk, model="Free", version="1.0.0", files=("/nowhere/Free.gguf",))


def variables_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


async def pid_of(socket: str) -> int:
    """The worker introduces itself to whoever connects."""
    reader, writer = await asyncio.open_unix_connection(socket)
    decoder: FrameDecoder[WorkerToGateway] = FrameDecoder(WorkerToGateway)
    hello = (await read_messages(reader, decoder))[0]
    writer.close()
    assert isinstance(hello, Hello)
    return hello.pid


# --- Demand ---


async def test_a_demand_loads_the_model_and_sql_records_it(node: NodeProcess) -> None:
    await node.start()
    spec = await node.discovered("Tiny")
    gateway = await node.gateway()
    pid = await pid_of(await gateway.loaded(spec))
    await eventually(lambda: (replica_row(spec).observed, replica_row(spec).pid) == ("ready", pid))


async def test_every_gateway_is_told_at_once_and_of_every_change(lone_node: NodeProcess) -> None:
    await lone_node.start()
    first, second = await lone_node.gateway(), await lone_node.gateway()
    assert (await first.read())[0].replicas == ()
    first.demand(spec_without_sql())
    await second.until(spec_without_sql(), READY)
    late = await lone_node.gateway()
    assert (await late.until(spec_without_sql(), READY)).state == READY


async def test_a_node_registers_itself(node: NodeProcess) -> None:
    await node.start()
    await eventually(lambda: Node.objects.filter(name="here", supervisor_pid=node.process.pid).exists())


async def test_a_failed_load_says_why_and_when_it_may_be_tried_again(node: NodeProcess) -> None:
    await node.start("--fail-load", "the file is truncated")
    spec = await node.discovered("Tiny")
    gateway = await node.gateway()
    gateway.demand(spec)
    failed = await gateway.until(spec, FAILED)
    assert failed.reason == "the file is truncated"
    assert failed.retry_at is not None and failed.retry_at - failed.since == pytest.approx(1)
    await eventually(lambda: replica_row(spec).reason == "the file is truncated")


async def test_a_hanging_load_is_killed_at_its_deadline(lone_node: NodeProcess, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    await lone_node.start("--load-gate", str(gate), load=0.5)
    gateway = await lone_node.gateway()
    gateway.demand(spec_without_sql())
    failed = await gateway.until(spec_without_sql(), FAILED)
    assert "did not finish loading" in failed.reason


async def test_a_command_that_does_not_exist_is_a_failed_load_not_a_dead_supervisor(lone_node: NodeProcess) -> None:
    await lone_node.start("--no-such-argument")
    gateway = await lone_node.gateway()
    gateway.demand(spec_without_sql())
    failed = await gateway.until(spec_without_sql(), FAILED)
    assert "exited with status 2" in failed.reason
    assert "--no-such-argument" in failed.reason


# --- Crash ---


async def test_a_killed_worker_is_explained_and_loaded_again_by_the_next_demand(lone_node: NodeProcess) -> None:
    await lone_node.start()
    spec = spec_without_sql()
    gateway = await lone_node.gateway()
    socket = await gateway.loaded(spec)
    os.kill(await pid_of(socket), signal.SIGKILL)
    failed = await gateway.until(spec, FAILED)
    assert "SIGKILL" in failed.reason and "memory" in failed.reason
    gateway.demand(spec)
    again = await gateway.until(spec, READY)
    assert again.socket != socket


async def test_a_pinned_model_that_crashed_is_restarted_after_its_back_off(node: NodeProcess, tmp_path: Path) -> None:
    await node.start("--crash-on-load", "--first-only", str(tmp_path / "crashed"))
    spec = await node.discovered("Tiny")
    await in_sql(lambda: services.replica_desire(node="here", version_pk=spec.version_pk, desired="running"))
    gateway = await node.gateway()
    failed = await gateway.until(spec, FAILED)
    ready = await gateway.until(spec, READY)
    assert ready.since >= (failed.retry_at or 0) - 0.01
    await eventually(lambda: replica_row(spec).restarts == 1)


async def test_native_chatter_explains_a_crash_and_stays_off_the_log(lone_node: NodeProcess) -> None:
    await lone_node.start("--chatter", "GGML_ASSERT(n > 0) failed", "--crash-on-load")
    gateway = await lone_node.gateway()
    gateway.demand(spec_without_sql())
    failed = await gateway.until(spec_without_sql(), FAILED)
    assert "GGML_ASSERT(n > 0) failed" in failed.reason
    record = await lone_node.logged("GGML_ASSERT")
    assert (record["level"], record["module"]) == ("DEBUG", "engine")


async def test_workers_get_no_secret(lone_node: NodeProcess) -> None:
    lone_node.environment["NOPENAI_ADMIN_PASSWORD"] = "hunter2"
    await lone_node.start()
    gateway = await lone_node.gateway()
    variables = variables_of(await pid_of(await gateway.loaded(spec_without_sql())))
    assert b"hunter2" not in variables and b"DATABASE_URL" not in variables
    assert b"GGML_NO_BACKTRACE=1" in variables


# --- What operators want ---


async def test_stop_unloads_and_the_next_demand_turns_it_to_on_demand(node: NodeProcess) -> None:
    await node.start()
    spec = await node.discovered("Tiny")
    gateway = await node.gateway()
    await gateway.loaded(spec)
    await eventually(lambda: Replica.objects.filter(version_id=spec.version_pk).exists())
    await in_sql(lambda: services.replica_desire(node="here", version_pk=spec.version_pk, desired="stopped"))
    await gateway.until(spec, COLD)
    assert DRAINING in [replica.state for replica in gateway.seen]
    await gateway.loaded(spec)
    await eventually(lambda: replica_row(spec).desired == "on_demand")


async def test_a_stop_lets_what_runs_finish(node: NodeProcess, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    await node.start("--hang-after", "1", "--hang-gate", str(gate))
    spec = await node.discovered("Tiny")
    gateway = await node.gateway()
    socket = await gateway.loaded(spec)
    reader, writer = await asyncio.open_unix_connection(socket)
    decoder: FrameDecoder[WorkerToGateway] = FrameDecoder(WorkerToGateway)
    writer.write(encode_frame([Generate(id=1, request_id="r", text="go")]))
    texts = ""
    while "stub" not in texts:
        texts += str(await read_messages(reader, decoder))
    await eventually(lambda: Replica.objects.filter(version_id=spec.version_pk).exists())
    await in_sql(lambda: services.replica_desire(node="here", version_pk=spec.version_pk, desired="stopped"))
    await gateway.until(spec, DRAINING)
    with gate.open("wb"):  # only now may the request go on
        while "Finished" not in texts:
            texts += str(await read_messages(reader, decoder))
    await gateway.until(spec, COLD)
    assert "FinishReason.STOP" in texts


async def test_a_preloaded_model_is_loaded_without_a_demand(node: NodeProcess) -> None:
    await node.start()
    spec = await node.discovered("Tiny")
    gateway = await node.gateway()
    await in_sql(lambda: Model.objects.filter(name="Tiny").update(preload=True))
    await gateway.until(spec, READY)


async def test_a_disabled_model_is_unloaded(node: NodeProcess) -> None:
    await node.start()
    spec = await node.discovered("Tiny")
    gateway = await node.gateway()
    await gateway.loaded(spec)
    await in_sql(lambda: services.model_enable(name="Tiny", enabled=False))
    cold = await gateway.until(spec, COLD)
    assert "disabled" in cold.reason


async def test_an_unused_model_is_unloaded_after_its_idle_time_and_use_puts_that_off(lone_node: NodeProcess) -> None:
    await lone_node.start(idle_unload=0.5)
    spec = spec_without_sql()
    gateway = await lone_node.gateway()
    gateway.demand(spec)
    ready = await gateway.until(spec, READY)
    gateway.send(InUse(versions=(spec.version_pk,)))
    cold = await gateway.until(spec, COLD)
    assert cold.reason == "unused for 0.5 s"
    assert cold.since - ready.since >= 0.5


# --- Peers that misbehave ---


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff\xff\xff\xff", "larger than"),
        (b"\x00\x00\x00\x01\xc1", "not a message"),
        (encode_frame([Demand(spec=spec_without_sql())]), "not Subscribe"),
    ],
)
async def test_a_peer_that_breaks_the_protocol_is_dropped_with_the_reason(
    node: NodeProcess, data: bytes, reason: str
) -> None:
    await node.start()
    reader, writer = await asyncio.open_unix_connection(node.socket)
    writer.write(data)
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    assert reason in (await node.logged("A gateway broke the protocol"))["reason"]
    await (await node.gateway()).read()  # others are still served


async def test_the_socket_is_our_users_only(node: NodeProcess) -> None:
    await node.start()
    assert node.socket.stat().st_mode & 0o777 == 0o600


# --- The end, and the start after it ---


async def test_sigterm_stops_workers_records_them_cold_and_exits_with_zero(node: NodeProcess) -> None:
    await node.start()
    spec = await node.discovered("Tiny")
    gateway = await node.gateway()
    pid = await pid_of(await gateway.loaded(spec))
    assert await node.stop() == 0
    assert not is_alive(pid)
    row = await in_sql(lambda: replica_row(spec))
    assert (row.observed, row.pid) == ("cold", None)
    assert not node.socket.exists()


async def test_a_worker_deaf_to_sigterm_does_not_delay_the_end_beyond_six_seconds(lone_node: NodeProcess) -> None:
    await lone_node.start("--ignore-sigterm")
    gateway = await lone_node.gateway()
    pid = await pid_of(await gateway.loaded(spec_without_sql()))
    started = time.monotonic()
    assert await lone_node.stop() == 0
    assert time.monotonic() - started < 6
    assert not is_alive(pid)


async def test_a_killed_supervisor_takes_its_workers_along_and_the_next_one_starts_clean(node: NodeProcess) -> None:
    await node.start()
    spec = await node.discovered("Tiny")
    gateway = await node.gateway()
    socket = await gateway.loaded(spec)
    pid = await pid_of(socket)
    await eventually(lambda: replica_row(spec).observed == "ready")
    await node.stop(signal.SIGKILL)
    await eventually(lambda: not is_alive(pid))

    await node.start()
    await eventually(lambda: replica_row(spec).observed == "cold")
    assert socket not in map(str, node.socket.parent.iterdir())
    gateway = await node.gateway()
    await gateway.loaded(spec)


async def test_a_second_supervisor_on_the_same_socket_says_so_and_leaves(node: NodeProcess, tmp_path: Path) -> None:
    await node.start()
    second = NodeProcess(tmp_path, {"DATABASE_URL": node.environment["DATABASE_URL"]})
    await second.launch()
    assert await second.ended() == 1
    assert f"Another supervisor (process {node.process.pid})" in second.log[-1]["message"]
    await (await node.gateway()).read()  # the first one serves on
