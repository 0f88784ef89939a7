"""The KV caches of this node: the one who knows what each version's worker may take, holds and has counted.

    store ──shares, catalogue──┐                         ┌──budget──► worker (a line on its standard input)
    worker ──reports──────────►│ Caching: a round at     ├──view────► gateways, at most every 250 ms
    supervisor ──start, exit──►│ everything that changes ├──use─────► store, every 10 s and at an exit
    disk ──what lies there────►│ (:mod:`.cache_budgets`) └──trim, drop──► disk, in a thread

Level-triggered: a round looks at all that is known, so a lost event costs only time. Without PostgreSQL the last known
shares stay in force, and before any was read those of :func:`default_reading`.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
import structlog
from msgspec.structs import replace

from inference.protocol import CacheBudget, CacheReport, Caches, ModelSpec
from inference.supervisor import cache_disk
from inference.supervisor.cache_budgets import Round, Tier, decide
from inference.supervisor.cache_disk import OnDisk
from inference.supervisor.cache_versions import CacheUse, KnownVersion, VersionCache
from inference.supervisor.throttle import Throttle
from registry.cache.allocation import Machine, sizes
from registry.cache.configuration import CacheAllocation
from registry.cache.eviction import EvictionPolicy

log = structlog.get_logger(module="supervisor")

PUBLISH_SECONDS = 0.25
ROUND_SECONDS = 0.1
"""Reports that come within this time are looked at together: with a thousand versions on SSD a round takes 45 ms."""
_UPKEEP_SECONDS = 10.0
_LEAST_PART = 16
"""One part in so many of what models take is the cache's though nothing is left: what lies on SSD comes back through
RAM, and a model that comes back to a full node is the one that needs it."""


class CacheReading(msgspec.Struct, frozen=True, kw_only=True):
    """What SQL says about this node's caches."""

    ram: Tier
    ssd: Tier
    catalogue: Mapping[str, KnownVersion] | None
    """Every version there is, by the name of its directory. None: it is not known, so nothing is dropped."""


def default_reading(machine: Machine) -> CacheReading:
    """Until SQL was read: as large as it is where nobody has configured anything. No model is owed a share of it;
    whoever runs borrows an equal part, and the least recently used goes first."""
    config = CacheAllocation()
    size = sizes(config, machine)
    ram, ssd = (
        Tier(bytes=each.effective_bytes, shares={}, policy=config.global_eviction_policy)
        for each in (size.ram, size.ssd)
    )
    return CacheReading(ram=ram, ssd=ssd, catalogue=None)


class Caching:
    """Belongs to the running loop; all methods are called in it."""

    def __init__(
        self,
        root: Path,
        *,
        node_ram_bytes: int,
        publish: Callable[[], None],
        record_use: Callable[[dict[str, CacheUse]], None],
        round_seconds: float = ROUND_SECONDS,
    ) -> None:
        """``root`` holds a directory for each version. ``publish`` is called when :meth:`view` has changed,
        ``record_use`` gets what was used since it was called last, by model."""
        self.disk_bytes: int | None = None
        """Free on the caches' disk, their own blocks counted as free. None: not looked at yet."""
        self._root = root
        self._node_ram_bytes = node_ram_bytes
        self._publishing = Throttle(publish, PUBLISH_SECONDS)
        self._record_use = record_use
        self._loop = asyncio.get_running_loop()
        self._reading = default_reading(Machine(ram_bytes=node_ram_bytes, disk_bytes=0))
        self._configured = False
        self._surveyed = False
        self._versions: dict[str, VersionCache] = {}
        self._by_worker: dict[int, VersionCache] = {}
        self._ram_gave_way: str | None = None
        self._ssd_gave_way: str | None = None
        self._trim: dict[str, int] = {}
        self._disk_due = asyncio.Event()
        self._disk_due.set()
        self._round_seconds = round_seconds
        self._next_round: asyncio.TimerHandle | None = None
        self._decided_at = 0.0
        self._since = time.time()
        self._models_bytes = 0
        """That models take of the node's memory."""

    async def run(self) -> None:
        """Look at the disk, and keep it within its limits, for ever."""
        while True:
            await self._tend_disk()
            with suppress(TimeoutError):
                async with asyncio.timeout(_UPKEEP_SECONDS):
                    await self._disk_due.wait()
            self._keep_up()

    # What happens

    def directory(self, spec: ModelSpec) -> Path:
        """The directory of a version's SSD tier, made if need be."""
        directory = self._root / cache_disk.directory_name(spec.model, spec.version)
        try:
            cache_disk.create(directory)
        except OSError as fault:
            log.warning("A model has no SSD cache: its directory can't be made", model_id=spec.model, reason=str(fault))
        return directory

    def most_ram(self, model: str) -> int | None:
        """What its limits let a model have of the node's memory, in bytes; None: they don't say."""
        return self._reading.ram.ceilings.get(model)

    def ram_held(self, worker: int) -> int:
        """Bytes that a worker's cache has in RAM, as it said last."""
        cache = self._by_worker.get(worker)
        return 0 if cache is None else cache.ram_seat().held

    def give_way(self, models_bytes: int) -> None:
        """Models take so much of the node's memory, and the cache no more than what they leave.

        A model that is being loaded may for a moment stand beside blocks that have to go for it: workers drop them
        within a step, and a load takes longer to touch its memory than that.
        """
        before, self._models_bytes = self._ram_tier().bytes, models_bytes
        if self._ram_tier().bytes != before:
            self._round_soon()

    def started(self, worker: int, spec: ModelSpec, tell: Callable[[CacheBudget], None]) -> None:
        name = cache_disk.directory_name(spec.model, spec.version)
        cache = self._version(name, spec.model, spec.version)
        cache.started(worker, spec, tell)
        self._by_worker[worker] = cache
        self._round()

    def reported(self, worker: int, report: CacheReport) -> None:
        if cache := self._by_worker.get(worker):
            cache.reported(report, self._loop.time())
            self._round_soon()

    def ended(self, worker: int) -> None:
        if cache := self._by_worker.pop(worker, None):
            cache.ended()
            self._note_use()
            self._disk_due.set()  # what it was writing is there or not
            self._round()

    def read(self, reading: CacheReading) -> None:
        """SQL was read."""
        if not self._configured or reading != self._reading:
            self._configured = True
            self._reading = reading
            self._disk_due.set()
            self._round()

    def close(self) -> None:
        self._note_use()
        self._publishing.close()
        if self._next_round is not None:
            self._next_round.cancel()

    def view(self) -> Caches:
        return Caches(
            caches=tuple(cache.view() for cache in self._versions.values()),
            ram_bytes=self._ram_tier().bytes,
            ssd_bytes=self._reading.ssd.bytes,
            configured=self._configured,
            since=self._since,
        )

    # What follows

    def _round_soon(self) -> None:
        """At once, unless there was one a moment ago."""
        moment = self._decided_at + self._round_seconds
        if self._loop.time() >= moment:
            self._round()
        elif self._next_round is None:
            self._next_round = self._loop.call_at(moment, self._round)

    def _round(self) -> None:
        """Decide anew what each may take. Not before we know what lies on the disk: told less, a worker deletes it."""
        if self._next_round is not None:
            self._next_round.cancel()
        self._next_round, self._decided_at = None, self._loop.time()
        self._publishing.ask()
        if not self._surveyed:
            return
        ram, ssd = self._decide_ram(), self._decide_ssd()
        lfu = self._reading.ram.policy is EvictionPolicy.LFU
        for cache in self._versions.values():
            cache.settle(ram, ssd, least_frequently_used_first=lfu)
        if ssd.trim and ssd.trim != self._trim:
            self._disk_due.set()
        self._trim = ssd.trim

    def _decide_ram(self) -> Round:
        seats = [cache.ram_seat() for cache in self._versions.values() if cache.running]
        decided = decide(seats, self._ram_tier(), after=self._ram_gave_way)
        self._ram_gave_way = decided.gave_way
        return decided

    def _ram_tier(self) -> Tier:
        left = max(self._models_bytes // _LEAST_PART, self._node_ram_bytes - self._models_bytes)
        return replace(self._reading.ram, bytes=min(self._reading.ram.bytes, left))

    def _decide_ssd(self) -> Round:
        seats = [cache.ssd_seat() for cache in self._versions.values()]
        decided = decide(seats, self._reading.ssd, after=self._ssd_gave_way)
        self._ssd_gave_way = decided.gave_way
        return decided

    def _version(self, name: str, model: str, version: str) -> VersionCache:
        cache = self._versions.get(name)
        if cache is None:
            cache = self._versions[name] = VersionCache(name, model, version)
        self._describe(cache)
        return cache

    def _describe(self, cache: VersionCache) -> None:
        if known := (self._reading.catalogue or {}).get(cache.name):
            cache.version_pk, cache.weights_bytes = known.pk, known.size_bytes

    def _keep_up(self) -> None:
        """What time alone brings."""
        self._note_use()
        now = self._loop.time()
        forgotten = [cache.forget_old(now) for cache in self._versions.values()]
        if any(forgotten):
            self._publishing.ask()

    def _note_use(self) -> None:
        counts: dict[str, CacheUse] = {}
        for cache in self._versions.values():
            use = cache.take_use()
            if use.requests or use.prompt_tokens:
                counts[cache.model] = counts.get(cache.model, CacheUse()) + use
        if counts:
            self._record_use(counts)

    # The disk

    async def _tend_disk(self) -> None:
        """Delete what must go, then see what is there. Nothing else changes the directories of those who don't run, so
        all of it is looked at only when we have changed something."""
        due = self._disk_due.is_set() or bool(self._trim)
        self._disk_due.clear()
        try:
            if due:
                tend = partial(_tend, self._root, self._trim, self._reading.catalogue, self._may_touch)
                self._found(await asyncio.to_thread(tend))
            free = await asyncio.to_thread(cache_disk.free_bytes, self._root)
        except OSError as fault:
            log.warning("The caches' directory can't be used", directory=str(self._root), reason=str(fault))
        else:
            self._measured(free)
        self._surveyed = True
        self._round()

    def _found(self, found: Mapping[str, OnDisk]) -> None:
        for name in found.keys() - self._versions.keys():
            if found[name].blocks:
                self._version(name, *self._named(name))
        for name, cache in list(self._versions.items()):
            cache.found(found.get(name, OnDisk()))
            self._describe(cache)
            if cache.empty:
                del self._versions[name]

    def _measured(self, free_bytes: int) -> None:
        self.disk_bytes = free_bytes + sum(cache.ssd_seat().held for cache in self._versions.values())
        if not self._configured:
            self._reading = default_reading(Machine(ram_bytes=self._node_ram_bytes, disk_bytes=self.disk_bytes))

    def _named(self, name: str) -> tuple[str, str]:
        known = (self._reading.catalogue or {}).get(name)
        return (known.model, known.version) if known else cache_disk.version_of(name)

    def _may_touch(self, name: str) -> bool:
        """Called from the disk's thread: looking a name up and reading one attribute need no lock."""
        cache = self._versions.get(name)
        return cache is None or not cache.running


def _tend(
    root: Path,
    limits: Mapping[str, int],
    catalogue: Iterable[str] | None,
    may_touch: Callable[[str], bool],
) -> dict[str, OnDisk]:
    """One visit to the disk. Runs in a thread."""
    cache_disk.trim(root, limits, may_touch)
    found = cache_disk.survey(root)
    if catalogue is None:
        return found
    unknown = found.keys() - set(catalogue)
    cache_disk.drop(root, unknown, may_touch)
    return {name: on_disk for name, on_disk in found.items() if name not in unknown or not may_touch(name)}
