"""Recorded arrivals, routed by one strategy to simulated models.

Decisions are made by the :class:`routing.router.Router` that gateways use, told of the same things at the same pace:
work as it begins and ends, latencies as answers come, beginnings of prompts a quarter of a second after the last news,
the rest every second. What differs from life: there is one gateway; every model that was ready at any time is ready
all the time, and holds at first what the recording shows that it held; what is left of limits is as it was recorded,
whoever would have spent it; nobody is asked again elsewhere.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from registry.catalogue import Allowed, Catalogue, Health, Model, Version
from registry.errors import ApiError
from routing.ask import Ask
from routing.config import AUTO, Routing, Rules, Strategy
from routing.replay.records import Facts
from routing.replay.server import Begun, Job, Machine, Server
from routing.replay.trace import Trace
from routing.router import Router
from routing.table import RouteTable
from routing.targets import Target, Targets

NEWS_SECONDS = 0.25
"""Workers tell what they hold so often at most (:mod:`inference.engine.reporting`)."""

KEEP_UP_SECONDS = 1.0
"""Gateways look at all else so often (:meth:`inference.gateway.telemetry.Telemetry.keep_up`)."""

WINDOW_SECONDS = 600.0
"""Of hit rates."""


class Fate(msgspec.Struct, frozen=True, gc=False):
    """What became of one arrival."""

    model: str
    first_token: float
    """Seconds from its arrival, as :attr:`total` is."""
    total: float
    cached: int


def simulate(trace: Trace, strategy: Strategy | None, seed: int = 0) -> list[Fate | None]:
    """
    Args:
        strategy: None: every request goes to the model that answered it.
        seed: of all that is drawn.

    Returns:
        For each job what became of it; None: nobody could answer.
    """
    return _Simulation(trace, strategy, seed).run()


class _Simulation:
    """The owner of the clock and of all that happens."""

    def __init__(self, trace: Trace, strategy: Strategy | None, seed: int) -> None:
        self._trace = trace
        self._strategy = strategy
        self._targets = Targets()
        catalogue = _catalogue(trace.models)
        table = RouteTable(catalogue, {}, self._targets)
        self._targets.retain(table.versions())
        routing = trace.routing if strategy is None else _with_strategy(trace.routing, trace.route, strategy)
        self._router = Router(table, self._targets, routing, random.Random(seed).random)
        self._ends: dict[str, _End] = {}
        machine = Machine()
        for target in self._targets:
            model = target.version.model
            server = Server(trace.fitted.services[model], trace.models[model], machine)
            self._ends[model] = _End(target, server)
            target.says(warm=True, lanes=server.lanes, told=0, cells=0.0)
            for chain in trace.held.get(model, ()):
                server.cache.keep(chain)
            server.cache.take_news()
            self._targets.holds(target, server.cache.held, anew=True)
        self._fates: list[Fate | None] = [None] * len(trace.jobs)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._made = 0
        self._now = 0.0
        self._next_look = 0.0
        self._fleets = deque(trace.fleets)

    def run(self) -> list[Fate | None]:
        for job in self._trace.jobs:
            self._advance(job.arrival.at)
            self._arrive(job)
        self._advance(float("inf"))
        return self._fates

    def _advance(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self._now, _, happen = heapq.heappop(self._events)
            happen()
        self._now = until

    def _after(self, seconds: float, happen: Callable[[], None]) -> None:
        self._made += 1  # what falls into one moment happens in the order in which it was made
        heapq.heappush(self._events, (self._now + seconds, self._made, happen))

    def _arrive(self, job: Job) -> None:
        if self._now >= self._next_look:
            self._next_look = self._now - self._now % KEEP_UP_SECONDS + KEEP_UP_SECONDS
            self._keep_up()
        model = self._choose(job)
        if model is not None:
            end = self._ends[model]
            end.target.began()
            self._compute(end, end.server.take(job))

    def _choose(self, job: Job) -> str | None:
        if self._strategy is None:
            return job.arrival.model
        try:
            return self._router.route(_ask(job)).version.model
        except ApiError:
            return None

    def _compute(self, end: "_End", begun: Begun | None) -> None:
        if begun is not None:
            self._after(begun.seconds, partial(self._computed, end, begun))

    def _computed(self, end: "_End", begun: Begun) -> None:
        job = begun.job
        each_token = end.server.computed(job)
        first_token = self._now - job.arrival.at
        if job.arrival.stream:
            end.target.answered(first_token)
        end.served(self._now, job.arrival.prompt_tokens, begun.cached)
        self._tell_cache(end)
        seconds = job.further_tokens * each_token
        self._after(seconds, partial(self._finished, end, begun, first_token, each_token))

    def _finished(self, end: "_End", begun: Begun, first_token: float, each_token: float) -> None:
        job = begun.job
        following = end.server.finished(job)
        total = self._now - job.arrival.at
        self._fates[job.number] = Fate(end.model, first_token, total, begun.cached)
        if not job.arrival.stream:  # a gateway hears of all of it at once
            end.target.answered(first_token)
        end.target.ended()
        if job.further_tokens:
            end.target.generated(each_token)
        self._tell_cache(end)
        self._compute(end, following)

    def _tell_cache(self, end: "_End") -> None:
        if end.server.cache.has_news and not end.tells:
            end.tells = True
            self._after(max(0.0, end.due - self._now), partial(self._told_cache, end))

    def _told_cache(self, end: "_End") -> None:
        end.tells, end.due = False, self._now + NEWS_SECONDS
        added, removed = end.server.cache.take_news()
        self._targets.holds(end.target, end.server.cache.held, added=added, removed=removed)

    def _keep_up(self) -> None:
        while self._fleets and self._fleets[0].at <= self._now:
            self._limit(self._fleets.popleft().models)
        for end in self._ends.values():
            end.target.says(warm=True, lanes=end.server.lanes, told=0, cells=end.server.cells)
            end.target.caches(end.hit_rate(self._now))

    def _limit(self, models: Mapping[str, Facts]) -> None:
        changed = False
        for model, end in self._ends.items():
            facts, target = models.get(model), end.target
            if facts is not None:
                changed |= facts.exhausted is not target.exhausted
                target.limited(used=facts.quota_used, late=facts.quota_late, exhausted=facts.exhausted)
        if changed:
            self._router.refresh()


class _End:
    """A model as both sides know it."""

    def __init__(self, target: Target, server: Server) -> None:
        self.target = target
        self.server = server
        self.model = target.version.model
        self.tells = False
        """What it holds is on its way to gateways."""
        self.due = 0.0
        """When it may be told again."""
        self._served: deque[tuple[float, int, int]] = deque()
        self._prompt = self._cached = 0

    def served(self, now: float, prompt: int, cached: int) -> None:
        self._served.append((now, prompt, cached))
        self._prompt += prompt
        self._cached += cached

    def hit_rate(self, now: float) -> float:
        while self._served and self._served[0][0] < now - WINDOW_SECONDS:
            _, prompt, cached = self._served.popleft()
            self._prompt -= prompt
            self._cached -= cached
        return self._cached / self._prompt if self._prompt else 0.0


def _ask(job: Job) -> Ask:
    arrival = job.arrival
    return Ask(
        model=arrival.route,
        kind=arrival.kind,
        capabilities=frozenset(arrival.capabilities),
        allowed=Allowed(models=None if arrival.models is None else frozenset(arrival.models)),
        session=arrival.session,
        links=job.links,
        tokens=arrival.context,
        now=arrival.at,
    )


def _with_strategy(routing: Routing, route: str | None, strategy: Strategy) -> Routing:
    """Tests go before strategies, so there are none."""

    def changed(name: str, rules: Rules) -> Rules:
        chosen = strategy if route in (None, name) else rules.strategy
        return msgspec.structs.replace(rules, strategy=chosen, ab_test_enabled=False)

    own = strategy if route in (None, AUTO) else routing.strategy
    routes = {name: changed(name, rules) for name, rules in routing.routes.items()}
    return msgspec.structs.replace(routing, strategy=own, ab_test_enabled=False, routes=routes)


def _catalogue(models: Mapping[str, Facts]) -> Catalogue:
    found = {model: _model(model, facts, pk) for pk, (model, facts) in enumerate(sorted(models.items()), 1)}
    return Catalogue(revision=1, models=found, default=None)


def _model(name: str, facts: Facts, pk: int) -> Model:
    version = Version(
        pk=pk,
        model=name,
        version=facts.version,
        path="",
        files=(name,),  # without one it could not answer
        size_bytes=0,
        context_length=facts.context_length,
        capabilities=frozenset(facts.capabilities),
        health=Health.HEALTHY,
    )
    return Model(
        id=name,
        display_name=name,
        enabled=True,
        preload=False,
        is_default=False,
        starter=facts.starter,
        created=0,
        use_count=0,
        versions={version.version: version},
        promoted=version,
    )
