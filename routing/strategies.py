"""How one of several candidates is chosen: eight ways. Pure: randomness and time are given.

    strategy           chooses                                             keeps up to date
    round_robin        each in turn                                        a counter
    least_loaded       least work in flight; then least memory in use      a ranking by load
    cache_aware        who computes least: held tokens against queueing    the holders of each beginning, two rankings
    quota_aware        most left of its limits; late ones after all        a ranking by what is used
    random             anyone                                              nothing
    weighted_random    anyone, by weight or score                          an urn
    latency_based      quickest lately, and now and then one that was not  a ranking by latency and time
    affinity_based     the session's own; else by rendezvous               the sessions' pins

Each costs O(1) per decision, whatever the number of candidates: what orders them is kept up to date when telemetry
changes (:mod:`routing.targets`), also O(1). The one exception is the first request of a session under
``affinity_based``, which looks at all candidates.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

import msgspec

from routing import config
from routing.ask import Ask
from routing.config import Rules
from routing.ranking import Ranking
from routing.sessions import Pin, Pins, rendezvous, word
from routing.targets import TYPICAL_TOKENS, News, Target, Targets
from routing.urn import Urn

HALF_LIFE = 10
"""Requests after which a latency that was seen counts for half as much, as far as choosing goes."""

TOKENS_OF_WORK = 256
"""A request in flight is worth waiting for as long as for the computing of so many tokens: a usual prompt."""

_STEPS_PER_LANES = 64
_BUSY_STEPS = 2 * _STEPS_PER_LANES
_CELL_STEPS = 4
_COLD_RANK = _BUSY_STEPS * _CELL_STEPS
_LOAD_RANKS = 2 * _COLD_RANK + 1
"""Ready and below the threshold; to be loaded; ready and above it."""

_RATE_STEPS = 50
_LEAST_RATE = 1 / _RATE_STEPS
_QUOTA_STEPS = 100

_RANKS_PER_DOUBLING = 4
"""Latencies that differ by less than a fifth are alike: their candidates take turns."""
_UNTRIED_SECONDS = 1e-3
_UNKNOWN_SECONDS = 1.0

_LEAST_SCORE = 0.01
"""Whoever is drawn by score has a chance."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What a strategy chooses from, and by."""

    pool: tuple[Target, ...]
    """Never empty."""
    rules: Rules
    targets: Targets
    random: Callable[[], float]
    """Uniform in [0, 1)."""
    pins: Pins
    """Of the route's sessions."""


class Scored(msgspec.Struct, frozen=True):
    """How a candidate stands, for people."""

    score: float
    """The higher, the sooner it is chosen."""
    why: str


class Strategy(ABC):
    """Of one pool of candidates, with which it is replaced."""

    name: config.Strategy

    def __init__(self, setting: Setting) -> None:
        self.pool = setting.pool
        self._rules = setting.rules
        self._random = setting.random

    @abstractmethod
    def choose(self, ask: Ask) -> Target:
        """One of the pool."""

    @abstractmethod
    def would_choose(self, ask: Ask) -> Target | None:
        """Whom :meth:`choose` would, without doing so. None: that would be drawn."""

    @abstractmethod
    def scored(self, target: Target, ask: Ask) -> Scored:
        """How one of the pool stands for such a request now. It changes nothing."""


class Following(Strategy):
    """Keeps an order of its candidates by their telemetry."""

    follows: ClassVar[News]

    @abstractmethod
    def moved(self, target: Target) -> None:
        """The telemetry of one of the pool has changed."""

    def _follow(self) -> None:
        for target in self.pool:
            self.moved(target)
            target.follow(self, self.follows)


class RoundRobin(Strategy):
    """Each candidate in turn: over any k·n requests to n candidates each gets exactly k."""

    name = config.Strategy.ROUND_ROBIN

    def __init__(self, setting: Setting, turn: int = 0) -> None:
        super().__init__(setting)
        self.turn = turn

    def choose(self, ask: Ask) -> Target:
        turn = self.turn
        self.turn = turn + 1
        return self.pool[turn % len(self.pool)]

    def would_choose(self, ask: Ask) -> Target:
        return self.pool[self.turn % len(self.pool)]

    def scored(self, target: Target, ask: Ask) -> Scored:
        before = (self.pool.index(target) - self.turn) % len(self.pool)
        return Scored(-before, "it is its turn" if not before else f"{before} others come before it")


class LeastLoaded(Following):
    """Whose lanes are the least full ("least connections", by the size of each); among those who has most memory for
    KV left; among those each in turn.

    What is ready comes before what would have to be loaded, and that before what is fuller than
    ``max_load_threshold``.
    """

    name = config.Strategy.LEAST_LOADED
    follows = News.WORK

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._ranking: Ranking[Target] = Ranking()
        self._follow()

    def choose(self, ask: Ask) -> Target:
        return self._ranking.take_turn()

    def would_choose(self, ask: Ask) -> Target:
        return self._ranking.first()

    def moved(self, target: Target) -> None:
        self._ranking.put(target, load_rank(target, self._rules.max_load_threshold))

    def scored(self, target: Target, ask: Ask) -> Scored:
        rank = load_rank(target, self._rules.max_load_threshold)
        return Scored(1 - rank / _LOAD_RANKS, _load_words(target, self._rules.max_load_threshold))


class CacheAware(Following):
    """Who has least to compute before the first token, others' work included.

    A candidate that holds the beginning of the prompt saves computing so many tokens; the work in flight that it has
    more than the least loaded one costs as many as such requests compute on average. Whoever holds most is chosen if
    that saves more than it costs, so a popular prompt spreads before it makes a hot spot. (NVIDIA Dynamo's KV router
    weighs blocks to compute against blocks in use; Preble, Srivatsa et al. 2024, exploits and explores alike.)

    Where nobody holds any, the candidate with the highest hit rate, if that is at least ``min_cache_hit_rate``, and it
    is ready and no busier than the least loaded one; else the least loaded one.
    """

    name = config.Strategy.CACHE_AWARE
    follows = News.WORK | News.CACHE

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._holders = setting.targets.holders
        self._members = frozenset(setting.pool)
        self._by_load: Ranking[Target] = Ranking()
        self._by_hit_rate: Ranking[Target] = Ranking()
        self._uses_cache = setting.rules.enable_cache_optimization
        self._rated = False
        """Any has a hit rate that says something."""
        self._follow()

    def choose(self, ask: Ask) -> Target:
        least = self._by_load.first()
        if self._uses_cache:
            links = ask.links
            # Who holds a longer beginning holds the first one, too.
            if links and links[0] in self._holders and (holder := self._holder(links, least)) is not None:
                return holder
            if self._rated and self._by_hit_rate.first().busy <= least.busy:
                return self._by_hit_rate.take_turn()
        return self._by_load.take_turn()

    def would_choose(self, ask: Ask) -> Target:
        least = self._by_load.first()
        if self._uses_cache:
            if (holder := self._holder(ask.links, least)) is not None:
                return holder
            if self._rated and (best := self._by_hit_rate.first()).busy <= least.busy:
                return best
        return least

    def moved(self, target: Target) -> None:
        self._by_load.put(target, load_rank(target, self._rules.max_load_threshold))
        rate = target.hit_rate
        says_something = target.warm and rate >= max(self._rules.min_cache_hit_rate, _LEAST_RATE)
        if says_something and target.load <= self._rules.max_load_threshold:
            self._by_hit_rate.put(target, int((1 - rate) * _RATE_STEPS))
        else:
            self._by_hit_rate.remove(target)
        self._rated = len(self._by_hit_rate) > 0

    def scored(self, target: Target, ask: Ask) -> Scored:
        threshold = self._rules.max_load_threshold
        held = target.held_tokens(reversed(ask.links)) if self._uses_cache else 0
        extra = self._extra_work(target, self._by_load.first())
        words = [f"holds {held} tokens of the prompt"] if ask.links and self._uses_cache else []
        words += [f"hit rate {target.hit_rate:.0%}", _load_words(target, threshold)]
        return Scored(held - TOKENS_OF_WORK * extra, ", ".join(words))

    def _holder(self, links: tuple[bytes, ...], least: Target) -> Target | None:
        """Of those who hold most of it the least busy one, if it is worth waiting for."""
        for link in reversed(links):
            if holders := self._holders.get(link):
                able = [each for each in holders if each in self._members]
                if able:
                    best = least if least in able else min(able, key=_busy)
                    saved = best.held.get(link, 0)
                    return best if saved >= TOKENS_OF_WORK * self._extra_work(best, least) else None
        return None

    def _extra_work(self, target: Target, least: Target) -> float:
        """Requests in flight that it has more, of lanes of the usual size."""
        return max(0.0, target.busy - least.busy) * target.lanes if target is not least else 0.0


class QuotaAware(Following):
    """Who has most left of its limits, by its fullest one; of equals who is ready. Past its first soft limit a model
    comes after all others."""

    name = config.Strategy.QUOTA_AWARE
    follows = News.WORK | News.LIMITS

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._ranking: Ranking[Target] = Ranking()
        self._follow()

    def choose(self, ask: Ask) -> Target:
        return self._ranking.take_turn()

    def would_choose(self, ask: Ask) -> Target:
        return self._ranking.first()

    def moved(self, target: Target) -> None:
        used = int(min(1.0, target.quota_used) * _QUOTA_STEPS) + (target.quota_late * (_QUOTA_STEPS + 1))
        self._ranking.put(target, 2 * used + (not target.warm))

    def scored(self, target: Target, ask: Ask) -> Scored:
        late = ", past its first soft limit" if target.quota_late else ""
        return Scored(
            1 - target.quota_used - float(target.quota_late), f"{1 - target.quota_used:.0%} of its limits left{late}"
        )


class Random(Strategy):
    """Anyone, each with the same chance."""

    name = config.Strategy.RANDOM

    def choose(self, ask: Ask) -> Target:
        return self.pool[int(self._random() * len(self.pool))]

    def would_choose(self, ask: Ask) -> None:
        return None

    def scored(self, target: Target, ask: Ask) -> Scored:
        chance = 1 / len(self.pool)
        return Scored(chance, f"is drawn in {chance:.1%} of cases")


class WeightedRandom(Following):
    """Anyone, by ``model_weights``; without them by score: 0.4 · hit rate + 0.4 · (1 − load) + 0.2 · quota left."""

    name = config.Strategy.WEIGHTED_RANDOM
    follows = News.WORK | News.CACHE | News.LIMITS

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._urn: Urn[Target] = Urn()
        weights = setting.rules.model_weights or {}
        for target in self.pool:
            self._urn.put(target, weights.get(target.version.model, 0.0))
        if not len(self._urn):
            self._follow()

    def choose(self, ask: Ask) -> Target:
        return self._urn.draw(self._random)

    def would_choose(self, ask: Ask) -> None:
        return None

    def moved(self, target: Target) -> None:
        self._urn.put(target, max(_LEAST_SCORE, general_score(target)))

    def scored(self, target: Target, ask: Ask) -> Scored:
        chance = self._urn.share(target)
        return Scored(chance, f"is drawn in {chance:.1%} of cases")


class LatencyBased(Following):
    """Who would answer soonest: seconds to the first token and for a typical number of them, as lately seen, times one
    and the work in flight ÷ lanes (as Finagle's Peak EWMA counts what is outstanding).

    A slow past is not for ever: while others are chosen, what was seen of one counts less and less, half for every
    :data:`HALF_LIFE` requests, until it is tried again: the slower, the more rarely. All that were not chosen are
    forgiven at the same rate, so their order stays: instead of lowering all of them, who is chosen is raised (as
    GreedyDual ages a cache, Cao and Irani 1997).
    """

    name = config.Strategy.LATENCY_BASED
    follows = News.WORK | News.LATENCY

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._requests = 0
        self._pasts = {target: _Past(target) for target in self.pool}
        self._ready: Ranking[_Past] = Ranking()
        self._cold: Ranking[_Past] = Ranking()
        """What would have to be loaded is asked when nothing is ready."""
        self._any_ready = False
        self._follow()

    def choose(self, ask: Ask) -> Target:
        if not self._any_ready:
            return self._cold.take_turn().target
        past = self._ready.take_turn()
        self._requests += 1
        past.chosen_at = self._requests  # it is put behind when its work begins
        return past.target

    def would_choose(self, ask: Ask) -> Target:
        return (self._ready.first() if self._any_ready else self._cold.first()).target

    def moved(self, target: Target) -> None:
        past = self._pasts[target]
        if target.warm:
            self._ready.put(past, int(_RANKS_PER_DOUBLING * _doublings(past)))
            self._cold.remove(past)
        else:
            self._cold.put(past, 0)
            self._ready.remove(past)
        self._any_ready = len(self._ready) > 0

    def scored(self, target: Target, ask: Ask) -> Scored:
        if not target.warm:
            return Scored(-math.inf, "would have to be loaded")
        past = self._pasts[target]
        score = self._requests / HALF_LIFE - _doublings(past)
        if (latency := target.latency) is None:
            return Scored(score, "has answered nothing yet")
        ago = self._requests - past.chosen_at
        return Scored(score, f"{latency:.3g} s for {TYPICAL_TOKENS} tokens, {target.busy:.0%} busy, chosen {ago} ago")


class _Past:
    """Of a candidate, with one strategy."""

    __slots__ = ("chosen_at", "target")

    def __init__(self, target: Target) -> None:
        self.target = target
        self.chosen_at = 0
        """The number of the request for which it was chosen last. 0: it never was."""


def _doublings(past: _Past) -> float:
    """Of its time, and of how often others were chosen before it was: the lower, the sooner."""
    chosen_at, latency = past.chosen_at, past.target.latency
    if latency is None:  # tried at once, and then given the time to answer
        latency = _UNKNOWN_SECONDS if chosen_at else _UNTRIED_SECONDS
    return math.log2(latency * (1 + past.target.busy)) + chosen_at / HALF_LIFE


class AffinityBased(Following):
    """Where the session was, if it comes again within ``affinity_timeout_sec``; a new one, and one whose model can't
    answer any more, by rendezvous hashing (:mod:`routing.sessions`). Requests without a session go to the least loaded.
    """

    name = config.Strategy.AFFINITY_BASED
    follows = News.WORK

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._pins = setting.pins
        self._members = {target.version.model: target for target in self.pool}
        self._words = [word(target.version.model) for target in self.pool]
        self._by_load: Ranking[Target] = Ranking()
        self._follow()

    def choose(self, ask: Ask) -> Target:
        session = ask.session
        if not session:
            return self._by_load.take_turn()
        pin = self._pins.find(session, ask.now - self._rules.affinity_timeout_sec)
        if pin is not None and (target := self._members.get(pin.model)) is not None:
            self._pins.used(session, pin, ask.now)
            return target
        target = self._by_rendezvous(session)
        self._pins.put(session, target.version.model, ask.now)
        return target

    def would_choose(self, ask: Ask) -> Target:
        if not ask.session:
            return self._by_load.first()
        pin = self._pins.find(ask.session, ask.now - self._rules.affinity_timeout_sec)
        here = None if pin is None else self._members.get(pin.model)
        return self._by_rendezvous(ask.session) if here is None else here

    def moved(self, target: Target) -> None:
        self._by_load.put(target, load_rank(target, self._rules.max_load_threshold))

    def scored(self, target: Target, ask: Ask) -> Scored:
        if not ask.session:
            threshold = self._rules.max_load_threshold
            return Scored(-load_rank(target, threshold), f"no session, {_load_words(target, threshold)}")
        here = target is self.would_choose(ask)
        return Scored(float(here), "the session is here" if here else "the session is elsewhere")

    def strays(self, now: float) -> list[tuple[str, Pin]]:
        """The sessions of this pool that are not where rendezvous would have them."""
        since = now - self._rules.affinity_timeout_sec
        return [each for each in self._pins.strays(list(self._members), since) if each[1].model in self._members]

    def _by_rendezvous(self, session: str) -> Target:
        return self.pool[rendezvous(word(session), self._words)]


BY_NAME: Mapping[config.Strategy, type[Strategy]] = {
    each.name: each
    for each in (
        RoundRobin,
        LeastLoaded,
        CacheAware,
        QuotaAware,
        Random,
        WeightedRandom,
        LatencyBased,
        AffinityBased,
    )
}


def load_rank(target: Target, threshold: float) -> int:
    """The lower, the sooner: by work in flight ÷ lanes, then by memory in use."""
    if not target.warm:
        return _COLD_RANK
    busy = target.busy
    rank = min(_BUSY_STEPS - 1, int(busy * _STEPS_PER_LANES)) * _CELL_STEPS + min(
        _CELL_STEPS - 1, int(target.cells * _CELL_STEPS)
    )
    return rank + _COLD_RANK + 1 if max(busy, target.cells) > threshold else rank


def is_at_hand(target: Target, threshold: float) -> bool:
    """Ready, and below the threshold."""
    return load_rank(target, threshold) < _COLD_RANK


def general_score(target: Target) -> float:
    """0–1."""
    return 0.4 * target.hit_rate + 0.4 * (1 - min(1.0, target.load)) + 0.2 * (1 - min(1.0, target.quota_used))


def _busy(target: Target) -> float:
    return target.busy


def _load_words(target: Target, threshold: float) -> str:
    if not target.warm:
        return "would have to be loaded"
    above = f", above the threshold of {threshold:.0%}" if target.load > threshold else ""
    return f"{target.busy:.0%} busy, {target.cells:.0%} of its memory in use{above}"
