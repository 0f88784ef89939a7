"""The owner of a node's caches, with workers that a test plays by hand and a real directory."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest_asyncio
from msgspec.structs import replace

from inference.protocol import CacheBudget, CacheReport, CacheView, ModelSpec, TierReport
from inference.supervisor.cache_budgets import Tier
from inference.supervisor.cache_disk import directory_name
from inference.supervisor.cache_versions import CacheUse, KnownVersion
from inference.supervisor.caching import PUBLISH_SECONDS, CacheReading, Caching
from registry.cache.eviction import EvictionPolicy
from tests.waiting import until

MB = 1024**2


def spec(model: str, pk: int = 1) -> ModelSpec:
    return ModelSpec(version_pk=pk, model=model, version="1.0.0", files=())


def tier(size: int, policy: EvictionPolicy = EvictionPolicy.LRU, **shares: int) -> Tier:
    return Tier(bytes=size, shares=shares, policy=policy)


def catalogue(*models: str) -> dict[str, KnownVersion]:
    return {
        directory_name(model, "1.0.0"): KnownVersion(pk=pk, model=model, version="1.0.0", size_bytes=pk)
        for pk, model in enumerate(models, 1)
    }


def reading(ram: Tier, ssd: Tier, *models: str) -> CacheReading:
    return CacheReading(ram=ram, ssd=ssd, catalogue=catalogue(*models))


class Node:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.used: list[dict[str, CacheUse]] = []
        self.published: list[float] = []
        self.told: dict[int, list[CacheBudget]] = {}
        self.caching = Caching(
            root, node_ram_bytes=400 * MB, publish=self._publish, record_use=self.used.append, round_seconds=0
        )
        self._running: asyncio.Task[None] | None = None

    def _publish(self) -> None:
        self.published.append(asyncio.get_running_loop().time())

    def blocks(self, model: str, *sizes: int) -> None:
        directory = self.caching.directory(spec(model))
        for number, size in enumerate(sizes):
            (directory / f"{number}.kv").write_bytes(b"x" * size)

    async def surveyed(self) -> None:
        """The first look at the disk is over."""
        self._running = asyncio.create_task(self.caching.run())
        await until(lambda: self.caching.disk_bytes is not None)

    def start(self, worker: int, model: str) -> None:
        self.told[worker] = []
        self.caching.started(worker, spec(model, worker), self.told[worker].append)

    def report(self, worker: int, **fields: Any) -> None:
        """It has taken its last budget."""
        budget = self.told[worker][-1]
        ram = TierReport(enabled=True, budget_bytes=budget.ram_bytes, bytes=fields.pop("ram", 0))
        ssd = TierReport(enabled=True, budget_bytes=budget.ssd_bytes, bytes=fields.pop("ssd", 0))
        self.caching.reported(worker, CacheReport(ram=ram, ssd=ssd, **fields))

    def view(self, model: str) -> CacheView:
        return next(cache for cache in self.caching.view().caches if cache.model == model)

    async def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
        self.caching.close()


@pytest_asyncio.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path / "kv")
    yield node
    await node.stop()


# --- Budgets ---


async def test_without_sql_a_worker_gets_what_is_the_default_everywhere(node: Node) -> None:
    await node.surveyed()
    node.start(1, "a")
    [budget] = node.told[1]
    assert budget.ram_bytes == 100 * MB  # a quarter of the node's memory
    assert budget.ssd_bytes == node.caching.view().ssd_bytes > 0
    assert not node.caching.view().configured


async def test_the_cache_gives_way_to_models_and_grows_back(node: Node) -> None:
    await node.surveyed()
    node.start(1, "a")
    node.report(1, ram=90 * MB)
    node.caching.give_way(300 * MB)
    assert node.caching.view().ram_bytes == 100 * MB
    node.caching.give_way(360 * MB)
    assert node.told[1][-1].ram_bytes == 40 * MB == node.caching.view().ram_bytes
    assert node.caching.ram_held(1) == 90 * MB
    node.report(1, ram=40 * MB)
    node.caching.give_way(500 * MB)
    assert node.told[1][-1].ram_bytes == 500 * MB // 16, "what lies on SSD comes back through RAM"
    node.report(1)
    node.caching.give_way(0)
    assert node.told[1][-1].ram_bytes == 100 * MB


async def test_nobody_is_told_anything_before_we_know_what_lies_on_the_disk(node: Node) -> None:
    """A worker that is told less than it has there deletes the rest."""
    node.blocks("a", 1000, 1000)
    node.start(1, "a")
    assert node.told[1] == []
    await node.surveyed()
    [budget] = node.told[1]
    assert budget.ssd_bytes >= 2000


async def test_shares_that_change_reach_a_running_worker_and_equal_ones_do_not(node: Node) -> None:
    await node.surveyed()
    node.start(1, "a")
    node.report(1)
    node.caching.read(reading(tier(80, a=80), tier(800, a=800), "a"))
    assert (node.told[1][-1].ram_bytes, node.told[1][-1].ssd_bytes) == (80, 800)
    node.report(1)
    told = len(node.told[1])
    node.caching.read(reading(tier(80, a=80), tier(800, a=800), "a"))
    assert len(node.told[1]) == told


async def test_the_policy_within_a_worker_follows_the_global_one(node: Node) -> None:
    await node.surveyed()
    node.start(1, "a")
    node.report(1)
    assert not node.told[1][-1].least_frequently_used_first
    lfu = EvictionPolicy.LFU
    node.caching.read(reading(tier(80, lfu, a=80), tier(800, lfu, a=800), "a"))
    assert node.told[1][-1].least_frequently_used_first


async def test_a_second_model_gets_its_part_once_the_first_has_given_it_up(node: Node) -> None:
    await node.surveyed()
    node.caching.read(reading(tier(1000, a=500, b=500), tier(1000, a=500, b=500), "a", "b"))
    node.start(1, "a")
    node.report(1, ram=1000)
    assert node.told[1][-1].ram_bytes == 1000
    node.start(2, "b")
    assert node.told[2][-1].ram_bytes == 0
    shrunk = node.told[1][-1].ram_bytes
    assert shrunk < 1000
    node.report(2)
    node.report(1, ram=shrunk)
    assert node.told[2][-1].ram_bytes == 1000 - shrunk


async def test_what_an_ended_worker_held_in_memory_goes_to_the_others(node: Node) -> None:
    await node.surveyed()
    node.caching.read(reading(tier(1000, a=500, b=500), tier(0), "a", "b"))
    for worker, model in ((1, "a"), (2, "b")):
        node.start(worker, model)
    for _ in range(3):
        for worker in (1, 2):
            node.report(worker, ram=500)
    node.caching.ended(2)
    node.report(1, ram=500)
    assert node.told[1][-1].ram_bytes == 1000


# --- The disk ---


async def test_blocks_of_a_model_that_does_not_run_are_trimmed_when_the_tier_shrinks(node: Node) -> None:
    node.blocks("a", 600, 600)
    await node.surveyed()
    assert node.view("a").ssd.held_bytes == 1200
    node.caching.read(reading(tier(0), tier(1000, a=1000), "a"))
    await until(lambda: node.view("a").ssd.held_bytes == 600)
    assert len(list(node.root.rglob("*.kv"))) == 1


async def test_blocks_of_versions_that_the_catalogue_does_not_know_are_deleted(node: Node) -> None:
    node.blocks("known", 10)
    node.blocks("gone", 10)
    await node.surveyed()
    node.caching.read(reading(tier(0), tier(1000), "known"))
    await until(lambda: [path.name for path in node.root.iterdir()] == ["known@1.0.0"])
    await until(lambda: [cache.model for cache in node.caching.view().caches] == ["known"])


async def test_a_version_that_is_gone_keeps_its_blocks_while_its_worker_runs(node: Node) -> None:
    node.blocks("gone", 10)
    await node.surveyed()
    node.start(1, "gone")
    node.caching.read(reading(tier(0), tier(1000), "known"))
    node.blocks("other", 10)
    await until(lambda: not (node.root / "other@1.0.0").exists())
    assert (node.root / "gone@1.0.0" / "0.kv").exists()
    node.caching.ended(1)
    await until(lambda: not (node.root / "gone@1.0.0").exists())


async def test_before_sql_was_read_nothing_is_deleted(node: Node) -> None:
    node.blocks("a", 10)
    await node.surveyed()
    assert (node.root / "a@1.0.0" / "0.kv").exists()
    assert (node.view("a").version_pk, node.view("a").running) == (None, False)


async def test_a_directory_that_can_not_be_made_keeps_nobody_from_starting(node: Node, tmp_path: Path) -> None:
    (tmp_path / "kv").write_bytes(b"a file")
    assert node.caching.directory(spec("a")) == tmp_path / "kv" / "a@1.0.0"
    await node.surveyed()
    node.start(1, "a")
    assert node.told[1][-1].ram_bytes == 100 * MB


# --- What is counted ---


async def test_what_an_unloaded_worker_counted_is_not_lost(node: Node) -> None:
    await node.surveyed()
    node.start(1, "a")
    node.report(1, prompt_tokens=100, cached_tokens=40, lookups=3, hits=2)
    node.caching.ended(1)
    assert not node.view("a").running
    assert node.view("a").cache.cached_tokens == 40
    node.start(2, "a")
    node.report(2, prompt_tokens=10, cached_tokens=10, lookups=1, hits=1, ram=7)
    view = node.view("a")
    assert (view.cache.prompt_tokens, view.cache.cached_tokens, view.cache.hits) == (110, 50, 3)
    assert (view.cache.ram.bytes, view.ram.held_bytes) == (7, 7)
    assert (view.window_prompt_tokens, view.window_cached_tokens) == (110, 50)


async def test_use_is_recorded_at_an_exit_and_once(node: Node) -> None:
    await node.surveyed()
    node.start(1, "a")
    node.report(1, prompt_tokens=100, cached_tokens=40, lookups=3)
    node.report(1, prompt_tokens=150, cached_tokens=40, lookups=4)
    node.caching.ended(1)
    node.caching.close()
    assert node.used == [{"a": CacheUse(prompt_tokens=150, cached_tokens=40, requests=4)}]


async def test_versions_of_one_model_are_recorded_together(node: Node) -> None:
    await node.surveyed()
    node.start(1, "a")
    node.told[2] = []
    node.caching.started(2, replace(spec("a", 2), version="2.0.0"), node.told[2].append)
    node.report(1, prompt_tokens=1, lookups=1)
    node.report(2, prompt_tokens=2, lookups=1)
    node.caching.close()
    assert node.used == [{"a": CacheUse(prompt_tokens=3, requests=2)}]


async def test_a_report_of_a_worker_that_has_ended_is_nobodys(node: Node) -> None:
    await node.surveyed()
    node.start(1, "a")
    node.report(1, prompt_tokens=1, lookups=1)
    node.caching.ended(1)
    node.caching.reported(1, CacheReport(prompt_tokens=99))
    assert node.view("a").cache.prompt_tokens == 1


async def test_gateways_are_told_at_most_four_times_a_second(node: Node) -> None:
    await node.surveyed()
    node.start(1, "a")
    for number in range(100):
        node.report(1, prompt_tokens=number)

    def reported_on() -> bool:
        node.report(1)
        return len(node.published) >= 3

    await until(reported_on)
    pauses = [later - earlier for earlier, later in pairwise(node.published)]
    assert min(pauses) >= PUBLISH_SECONDS - 0.01
