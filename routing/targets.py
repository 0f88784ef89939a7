"""Who can be chosen, and how they are doing: what strategies choose by. Owned by the event loop.

Telemetry is told to a :class:`Target` when it changes, and it tells the strategies that follow it, which keep their
order up to date. So a decision looks nothing up and sorts nothing.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from enum import Flag, auto
from typing import Protocol

from registry.catalogue import Version
from routing.breaker import Breaker

REMOTE_LANES = 16
"""What a backend elsewhere computes together is not known; its load is reckoned as if it were so many."""

NEWEST_SHARE = 0.5
"""Of a moving average of latencies: what the newest one counts."""


class Follower(Protocol):
    def moved(self, target: "Target") -> None:
        """Some of its telemetry has changed that this one follows."""


class News(Flag):
    """Kinds of telemetry that strategies follow."""

    WORK = auto()
    """Whether it is ready, work in flight, memory."""
    LATENCY = auto()
    CACHE = auto()
    LIMITS = auto()


class Target:
    """One version that can answer. Compared by identity: there is one for each version in a process."""

    __slots__ = (
        "_of_cache",
        "_of_latency",
        "_of_limits",
        "_of_work",
        "blocked",
        "breaker",
        "busy",
        "cells",
        "exhausted",
        "first_token",
        "held",
        "hit_rate",
        "lanes",
        "per_token",
        "quota_late",
        "quota_used",
        "told",
        "version",
        "warm",
        "work",
    )

    def __init__(self, version: Version) -> None:
        self.version = version
        self.warm = version.remote
        """A worker is ready for it. A backend elsewhere is as ready as it will ever be."""
        self.lanes = REMOTE_LANES if version.remote else 1
        """Requests that its worker computes together."""
        self.work = 0
        """Requests that this process has sent it, or is about to."""
        self.told = 0
        """Requests that run or wait in its worker, of all gateways, as it has said last."""
        self.busy = 0.0
        """Work in flight ÷ lanes."""
        self.cells = 0.0
        """RAM for KV that running requests need, of what it has: 0–1."""
        self.hit_rate = 0.0
        """Prompt tokens that it need not compute ÷ prompt tokens, lately."""
        self.first_token: float | None = None
        """Seconds to the first token: the moving geometric mean of what this process saw. None: it saw nothing yet."""
        self.per_token: float | None = None
        """Seconds between two tokens, likewise."""
        self.quota_used = 0.0
        """Of the limit that is nearest its end: 0–1."""
        self.quota_late = False
        """It is past its first soft limit."""
        self.exhausted = False
        """Nothing is left of a limit of its own."""
        self.held: Mapping[bytes, int] = {}
        """Beginnings of prompts that it need not compute, by their links, and about how many tokens each is."""
        self.breaker = Breaker()
        self.blocked = False
        """Its breaker lets no request pass, as far as was looked."""
        self._of_work: list[Follower] = []
        self._of_latency: list[Follower] = []
        self._of_cache: list[Follower] = []
        self._of_limits: list[Follower] = []

    def __repr__(self) -> str:
        return f"Target({self.version.model}@{self.version.version})"

    @property
    def load(self) -> float:
        """The fuller one of its lanes and its memory: from 0, and beyond 1 where requests wait."""
        return max(self.busy, self.cells)

    @property
    def latency(self) -> float | None:
        """Seconds that an answer of :data:`TYPICAL_TOKENS` would take. None: nothing is known."""
        if self.first_token is None:
            return None
        return self.first_token + TYPICAL_TOKENS * (self.per_token or 0.0)

    def held_tokens(self, links: Iterable[bytes]) -> int:
        """Of a prompt whose beginnings have these links, the longest first: about how many it need not compute."""
        return next((tokens for link in links if (tokens := self.held.get(link))), 0)

    # What is told

    def began(self) -> None:
        self.work += 1
        self._count_work()

    def ended(self) -> None:
        self.work -= 1
        if self.told > self.work:  # its worker says so, too, once it has tidied up: others must not shun it until then
            self.told -= 1
        self._count_work()

    def tells_work(self, requests: int) -> None:
        """Its worker has so many, of all gateways."""
        self.told = requests
        self._count_work()

    def says(self, *, warm: bool, lanes: int, told: int, cells: float) -> None:
        """What its worker tells of itself; without one it is not ``warm``."""
        self.warm, self.lanes, self.told, self.cells = warm, lanes, told, cells
        self._count_work()

    def caches(self, hit_rate: float) -> None:
        if hit_rate != self.hit_rate:
            self.hit_rate = hit_rate
            self._tell(self._of_cache)

    def limited(self, *, used: float, late: bool, exhausted: bool) -> None:
        """How it stands with its limits."""
        if (used, late, exhausted) != (self.quota_used, self.quota_late, self.exhausted):
            self.quota_used, self.quota_late, self.exhausted = used, late, exhausted
            self._tell(self._of_limits)

    def answered(self, first_token: float) -> None:
        """A request took so many seconds to its first token, the worker's queue included."""
        self.first_token = _averaged(self.first_token, first_token)
        self._tell(self._of_latency)

    def generated(self, per_token: float) -> None:
        """It took so many seconds for each further one."""
        self.per_token = _averaged(self.per_token, per_token)
        self._tell(self._of_latency)

    def follow(self, follower: Follower, news: News) -> None:
        lists = {
            News.WORK: self._of_work,
            News.LATENCY: self._of_latency,
            News.CACHE: self._of_cache,
            News.LIMITS: self._of_limits,
        }
        for kind in news:
            lists[kind].append(follower)

    def unfollow(self) -> None:
        """Nobody follows it any more."""
        for followers in (self._of_work, self._of_latency, self._of_cache, self._of_limits):
            followers.clear()

    def _count_work(self) -> None:
        # Its worker tells of ours, too, a moment later.
        work, told = self.work, self.told
        self.busy = (work if work > told else told) / self.lanes
        for follower in self._of_work:
            follower.moved(self)

    def _tell(self, followers: Iterable[Follower]) -> None:
        for follower in followers:
            follower.moved(self)


TYPICAL_TOKENS = 100

_LEAST_SECONDS = 1e-6


def _averaged(mean: float | None, newest: float) -> float:
    """Geometric: twice as fast moves it as far as twice as slow, and one outlier does not stand for a hundred."""
    newest = max(newest, _LEAST_SECONDS)
    if mean is None:
        return newest
    return math.exp((1 - NEWEST_SHARE) * math.log(mean) + NEWEST_SHARE * math.log(newest))


class Targets:
    """All of a process, by their versions' primary keys; and who of them holds which beginnings of prompts."""

    def __init__(self) -> None:
        self._targets: dict[int, Target] = {}
        self.holders: dict[bytes, tuple[Target, ...]] = {}
        """By the links of prompts' beginnings, who need not compute them. To be read only."""

    def __iter__(self) -> Iterator[Target]:
        return iter(self._targets.values())

    def of(self, version: Version) -> Target:
        """A version's target, with what is known of the version now."""
        target = self._targets.get(version.pk)
        if target is None:
            target = self._targets[version.pk] = Target(version)
        target.version = version
        return target

    def find(self, version_pk: int) -> Target | None:
        return self._targets.get(version_pk)

    def retain(self, versions: Iterable[Version]) -> None:
        """These are all that there are."""
        known = {self.of(version).version.pk for version in versions}
        for pk in self._targets.keys() - known:
            self.holds(self._targets.pop(pk), {}, anew=True)

    def holds(
        self,
        target: Target,
        held: Mapping[bytes, int],
        *,
        added: Iterable[bytes] = (),
        removed: Iterable[bytes] = (),
        anew: bool = False,
    ) -> None:
        """What a target's worker holds has changed.

        Args:
            held: all of it now.
            anew: it is another worker, of which nothing was told before.
        """
        if anew:
            added, removed = list(held), [link for link in target.held if link not in held]
        target.held = held
        for link in added:
            holders = self.holders.get(link, ())
            if target not in holders:
                self.holders[link] = (*holders, target)
        for link in removed:
            left = tuple(each for each in self.holders.get(link, ()) if each is not target)
            if left:
                self.holders[link] = left
            else:
                self.holders.pop(link, None)
