"""Shares from PostgreSQL become budgets of workers; what workers count comes back. Workers are stubs."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from django.db.models import Sum

from inference.protocol import (
    CacheView,
    FrameDecoder,
    Generate,
    ModelSpec,
    Partition,
    ReplicaState,
    WorkerToGateway,
    encode_frame,
    read_messages,
)
from nopenai_site.environment import load
from quotas.services import quota_update
from registry.cache.models import CacheUse
from registry.cache.services import cache_allocation_update
from registry.models import Model, Node
from tests.integration.supervisor.running import NodeProcess, eventually, in_sql, replica_row
from tests.waiting import PATIENCE_SECONDS

READY, COLD = ReplicaState.READY, ReplicaState.COLD
MB = 1024**2
PARTITION = Partition(name="a" * 32, key=b"k" * 32)


async def configure(**changes: object) -> None:
    await in_sql(lambda: cache_allocation_update(changes=changes, author="a test"))


async def ask(socket: str, *prompts: str) -> None:
    """Have the worker answer prompts, one after the other."""
    reader, writer = await asyncio.open_unix_connection(socket)
    decoder: FrameDecoder[WorkerToGateway] = FrameDecoder(WorkerToGateway)
    for number, prompt in enumerate(prompts):
        writer.write(encode_frame([Generate(id=number, request_id="r", text=prompt, partition=PARTITION)]))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while "Finished" not in str(await read_messages(reader, decoder)):
                pass
    writer.close()


def confirmed(ram_bytes: int) -> Callable[[CacheView], bool]:
    """Whether the worker says that it goes by this budget."""
    return lambda cache: cache.cache.ram.budget_bytes == ram_bytes


def kv_directory(node: NodeProcess) -> Path:
    return load(node.environment).data_dir / "kv"


async def test_a_worker_has_a_budget_without_postgresql(lone_node: NodeProcess) -> None:
    lone_node.environment["NOPENAI_NODE_RAM_MB"] = "400"
    await lone_node.start()
    gateway = await lone_node.gateway()
    spec = ModelSpec(version_pk=1, model="org/Free", version="1.0.0", files=("/nowhere/Free.gguf",))
    await gateway.loaded(spec)
    await gateway.until_cached(spec, confirmed(100 * MB))
    directory = kv_directory(lone_node) / "org%2FFree@1.0.0"
    assert directory.stat().st_mode & 0o777 == 0o700


async def test_a_change_of_the_allocation_reaches_a_running_worker_long_before_the_next_poll(node: NodeProcess) -> None:
    await node.start()
    spec = await node.discovered("Tiny")
    gateway = await node.gateway()
    await gateway.loaded(spec)
    await gateway.until_caches(lambda caches: caches.configured)
    began = time.monotonic()
    await configure(global_cache_ram_gb=0.03125)
    cache = await gateway.until_cached(spec, confirmed(32 * MB))
    assert time.monotonic() - began < 4  # the poll comes every 5 s
    assert (cache.ram.share_bytes, cache.ram.limit_bytes) == (32 * MB, 32 * MB)


async def test_two_models_share_what_there_is_and_one_alone_borrows_it(node: NodeProcess) -> None:
    await node.start()
    first, second = await node.discovered("First"), await node.discovered("Second")
    await configure(global_cache_ram_gb=0.0625)
    gateway = await node.gateway()
    await gateway.until_caches(lambda caches: caches.ram_bytes == 64 * MB)
    await gateway.loaded(first)
    alone = await gateway.until_cached(first, confirmed(64 * MB))
    assert alone.ram.share_bytes == 32 * MB
    await gateway.loaded(second)
    await gateway.until_cached(second, confirmed(32 * MB))
    await gateway.until_cached(first, confirmed(32 * MB))
    for caches in gateway.caches:  # and on the way no more was given than there is
        assert sum(cache.cache.ram.bytes for cache in caches.caches) <= caches.ram_bytes


async def test_what_workers_counted_outlives_them_and_reaches_sql(node: NodeProcess) -> None:
    await node.start(idle_unload=0.3)
    spec = await node.discovered("Tiny")
    gateway = await node.gateway()
    socket = await gateway.loaded(spec)
    await gateway.until_cached(spec, lambda cache: cache.cache.ram.budget_bytes > 0)
    await ask(socket, "one two three four", "one two three four")
    await gateway.until(spec, COLD)
    view = await gateway.until_cached(spec, lambda cache: not cache.running)
    assert (view.cache.prompt_tokens, view.cache.cached_tokens, view.cache.lookups) == (8, 3, 2)
    assert (view.window_prompt_tokens, view.window_cached_tokens) == (8, 3)
    assert view.cache.ram.bytes == 0

    def counted() -> bool:
        sums = CacheUse.objects.filter(model__name="Tiny").aggregate(
            prompt=Sum("prompt_tokens"), cached=Sum("cached_tokens"), requests=Sum("requests")
        )
        return sums == {"prompt": 8, "cached": 3, "requests": 2}

    await eventually(counted)


async def test_blocks_of_an_unloaded_model_stay_count_and_go_when_the_tier_shrinks(node: NodeProcess) -> None:
    await node.start()
    spec = await node.discovered("Tiny")
    gateway = await node.gateway()
    await gateway.loaded(spec)
    assert await node.stop() == 0
    blocks = kv_directory(node) / "Tiny@1.0.0"
    for number in range(4):
        (blocks / f"{number}.kv").write_bytes(b"x" * MB)

    await node.start()
    gateway = await node.gateway()
    await gateway.until_cached(spec, lambda cache: cache.ssd.held_bytes == 4 * MB and not cache.running)
    await configure(global_cache_ssd_gb=0.001953125)  # 2 MB
    await gateway.until_cached(spec, lambda cache: cache.ssd.held_bytes == 2 * MB)
    assert len(list(blocks.glob("*.kv"))) == 2


async def test_blocks_of_a_deleted_model_go(node: NodeProcess) -> None:
    await node.start()
    spec = await node.discovered("Tiny")
    gateway = await node.gateway()
    await gateway.until_caches(lambda caches: caches.configured)
    directory = kv_directory(node) / "Gone@1.0.0"
    directory.mkdir(parents=True)
    (directory / "1.kv").write_bytes(b"x")
    await gateway.loaded(spec)
    await in_sql(lambda: Model.objects.filter(name="Tiny").update(enabled=False))  # a change that is announced
    await gateway.until(spec, COLD)
    await eventually(lambda: not directory.exists())


async def test_the_node_tells_what_its_disk_has(node: NodeProcess) -> None:
    await node.start()
    await eventually(lambda: Node.objects.filter(name="here", disk_bytes__gt=0).exists())


async def test_a_model_whose_weights_are_beyond_its_limit_on_memory_is_not_loaded_until_that_is_raised(
    node: NodeProcess,
) -> None:
    await node.start(proven=0.0)
    spec = await node.discovered("Tiny")
    gateway = await node.gateway()
    await gateway.loaded(spec)
    pid = (await in_sql(lambda: replica_row(spec))).pid
    await in_sql(lambda: quota_update(model="Tiny", changes={"max_ram_mb": 0}, author="ada"))
    await gateway.until_cached(spec, lambda cache: cache.ram.limit_bytes == 0)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    gateway.demand(spec)
    while "max_ram_mb of its limits is 0" not in (reason := (await gateway.until(spec, ReplicaState.FAILED)).reason):
        assert "SIGKILL" in reason
        gateway.demand(spec)
    assert "its weights take" in reason
    await in_sql(lambda: quota_update(model="Tiny", changes={"max_ram_mb": 100}, author="ada"))
    gateway.demand(spec)
    await gateway.until(spec, READY)
