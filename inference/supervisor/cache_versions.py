"""What is known of one version's cache on this node, over all the workers that it has had. No I/O, no clock."""

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from inference.protocol import CacheBudget, CacheReport, CacheView, ModelSpec, TierReport, TierView
from inference.supervisor.cache_budgets import Grant, Round, Seat, heard, said
from inference.supervisor.cache_counting import Window, added
from inference.supervisor.cache_disk import OnDisk

NEW = Grant(said=-1)
"""Of a worker that was told nothing yet: whatever it is told first is news."""


class KnownVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version of the catalogue."""

    pk: int
    model: str
    version: str
    size_bytes: int


class CacheUse(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's cache was asked since it was last noted."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    requests: int = 0

    def __add__(self, other: "CacheUse") -> "CacheUse":
        return CacheUse(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            requests=self.requests + other.requests,
        )


class VersionCache:
    """Mutable; :class:`inference.supervisor.caching.Caching` is its one owner."""

    def __init__(self, name: str, model: str, version: str) -> None:
        """``name`` is its directory's."""
        self.name = name
        self.model = model
        self.version = version
        self.version_pk: int | None = None
        self.weights_bytes = 0
        self.worker: int | None = None
        self.on_disk = OnDisk()
        self.ram_view = self.ssd_view = TierView()
        self._tell: Callable[[CacheBudget], None] = _nobody
        self._past = CacheReport()
        self._report = CacheReport()
        self._window = Window()
        self._use = CacheUse()
        self._ram = self._ssd = NEW
        self._ram_grew = self._ssd_grew = False
        self._told: CacheBudget | None = None

    @property
    def running(self) -> bool:
        return self.worker is not None

    @property
    def empty(self) -> bool:
        """Whether nothing would be lost if it were forgotten."""
        return not self.running and not self.on_disk.blocks and not self._past.lookups

    def started(self, worker: int, spec: ModelSpec, tell: Callable[[CacheBudget], None]) -> None:
        self.worker = worker
        self.version_pk = spec.version_pk
        self._tell = tell
        self._told = None
        self._ram = NEW
        self._find_what_lies_there()

    def reported(self, report: CacheReport, now: float) -> None:
        before, self._report = self._report, report
        prompt_tokens = max(0, report.prompt_tokens - before.prompt_tokens)
        cached_tokens = max(0, report.cached_tokens - before.cached_tokens)
        self._window.add(prompt_tokens, cached_tokens, now)
        self._use += CacheUse(
            prompt_tokens=prompt_tokens,
            cached_tokens=cached_tokens,
            requests=max(0, report.lookups - before.lookups),
        )
        self._ram, self._ssd = heard(self._ram, report.ram), heard(self._ssd, report.ssd)
        self._ram_grew = self._ram_grew or _grew(before.ram, report.ram)
        self._ssd_grew = self._ssd_grew or _grew(before.ssd, report.ssd)

    def ended(self) -> None:
        self.worker = self._told = None
        self._tell = _nobody
        ssd = self._report.ssd
        self.on_disk = OnDisk(blocks=ssd.blocks, bytes=ssd.bytes, least_recent_use=ssd.least_recent_use)
        self._past = added(self._past, self._report)
        self._ram_grew = self._ssd_grew = False
        self._find_what_lies_there()

    def found(self, on_disk: OnDisk) -> None:
        """What a look at its directory says; a running worker knows better once it was told a budget."""
        if self._told is None:
            self.on_disk = on_disk
            self._find_what_lies_there()

    def take_use(self) -> CacheUse:
        use, self._use = self._use, CacheUse()
        return use

    def forget_old(self, now: float) -> bool:
        return self._window.forget(now)

    def ram_seat(self) -> Seat:
        return self._seat(self._ram, self._report.ram, self._ram_grew)

    def ssd_seat(self) -> Seat:
        return self._seat(self._ssd, self._report.ssd, self._ssd_grew)

    def settle(self, ram: Round, ssd: Round, *, least_frequently_used_first: bool) -> None:
        """Take what a round decided, and tell the worker what is new in it."""
        self._ram_grew = self._ssd_grew = False
        self.ram_view = _view(self.name, ram, self._report.ram.bytes)
        self.ssd_view = _view(self.name, ssd, self.ssd_seat().held)
        if not self.running:
            return
        self._ram = said(self._ram, ram.say.get(self.name, self._ram.said))
        self._ssd = said(self._ssd, ssd.say.get(self.name, self._ssd.said))
        budget = CacheBudget(
            ram_bytes=max(0, self._ram.said),
            ssd_bytes=max(0, self._ssd.said),
            least_frequently_used_first=least_frequently_used_first,
        )
        if budget != self._told:
            self._told = budget
            self._tell(budget)

    def view(self) -> CacheView:
        return CacheView(
            version_pk=self.version_pk,
            model=self.model,
            version=self.version,
            running=self.running,
            cache=added(self._past, self._report),
            window_prompt_tokens=self._window.prompt_tokens,
            window_cached_tokens=self._window.cached_tokens,
            ram=self.ram_view,
            ssd=self.ssd_view,
        )

    def _find_what_lies_there(self) -> None:
        """Nobody, or a worker that has not spoken yet: it begins with what is on SSD; told less, it would delete the
        rest."""
        found = self.on_disk
        ssd = TierReport(blocks=found.blocks, bytes=found.bytes, least_recent_use=found.least_recent_use)
        self._report = CacheReport(ssd=ssd)
        self._ssd = replace(NEW, in_force=found.bytes)

    def _seat(self, grant: Grant, tier: TierReport, grew: bool) -> Seat:
        return Seat(
            name=self.name,
            model=self.model,
            running=self.running,
            grant=grant,
            held=tier.bytes,
            possible=tier.possible,
            grew=grew,
            weights_bytes=self.weights_bytes,
            least_recent_use=tier.least_recent_use,
            least_uses=tier.least_uses,
        )


def _view(name: str, decided: Round, held: int) -> TierView:
    return TierView(share_bytes=decided.shares.get(name, 0), limit_bytes=decided.limits.get(name, 0), held_bytes=held)


def _grew(before: TierReport, now: TierReport) -> bool:
    return now.bytes > before.bytes or now.evicted_blocks > before.evicted_blocks


def _nobody(_budget: CacheBudget) -> None:
    """There is no worker to tell."""
