"""A request's name in, a decision out."""

import random
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import msgspec

from registry.catalogue import Version
from registry.errors import ApiError, Forbidden, ModelNotFound, Unavailable
from routing.ask import Ask
from routing.config import AUTO, Routing, Rules
from routing.decision import NAMED, Decision, Explanation, Refusal
from routing.experiments.split import Split
from routing.explaining import Foretold, by_strategy, by_test
from routing.sessions import Pin, Pins
from routing.strategies import BY_NAME, AffinityBased, RoundRobin, Setting, Strategy, is_at_hand, load_rank
from routing.table import Need, RouteTable, require_capabilities
from routing.targets import Target, Targets

_MOST_POOLS = 256
"""Remembered. Clients name capabilities, and keys models, so something must bound them."""

_MOST_REASONS = 5
_MOST_NAMES = 10

_KINDS: dict[str, frozenset[str]] = {kind: frozenset({kind}) for kind in ("chat", "completion", "embedding")}

PoolKey = tuple[str, frozenset[str], frozenset[str] | None, int]
"""The route; the capabilities, models and tokens of :class:`routing.table.Need`."""


class Pool(msgspec.Struct, frozen=True):
    """Who can answer requests of one need on one route."""

    name: str
    """The strategy's."""
    strategy: Strategy
    candidates: int
    others: tuple[Target, ...]
    """Who is asked when all candidates of the strategy have failed, the best first."""
    test: Split | None
    """That goes before the strategy."""


class Router:
    """Owns what routing remembers between requests. Owned by the event loop."""

    def __init__(
        self,
        table: RouteTable,
        targets: Targets | None = None,
        routing: Routing | None = None,
        draw: Callable[[], float] = random.random,
        strayed: Callable[[str, Sequence[tuple[str, Pin]]], None] = lambda *_: None,
    ) -> None:
        """
        Args:
            draw: gives uniform numbers in [0, 1).
            strayed: is told the sessions of a route, by name, whose models others could not tell from now on.
        """
        self.table = table
        self.targets = targets or Targets()
        self._routing = routing or Routing()
        self._routes = self._routing.all_rules()
        self._draw = draw
        self._pools: dict[PoolKey, Pool] = {}
        self._turns: dict[PoolKey, int] = {}
        """Where round robin was in pools of before."""
        self._pins: dict[str, Pins] = {}
        self._members: dict[PoolKey, tuple[str, ...]] = {}
        """Of pools whose sessions stick: the models."""
        self._strayed = strayed

    def rules(self, asked: str) -> Rules:
        """Of the route that was asked; for a model, those of the default route."""
        return self._routes.get(asked) or self._routing

    def strategy(self, ask: Ask) -> str:
        """Of the route that it asks for."""
        rules = self._routes.get(ask.model or self.table.default)
        return NAMED if rules is None else rules.strategy.value

    def renew(self, table: RouteTable, routing: Routing | None = None) -> None:
        """The registry, the configuration, or who can run has changed."""
        self.table = table
        self._routing = routing or self._routing
        self._routes = self._routing.all_rules()
        self._pins = {route: pins for route, pins in self._pins.items() if route in self._routes}
        self.refresh()

    def refresh(self) -> None:
        """Who is a candidate has changed."""
        if len(self._turns) > _MOST_POOLS:
            self._turns.clear()
        for key, pool in self._pools.items():
            if isinstance(pool.strategy, RoundRobin):
                self._turns[key] = pool.strategy.turn
        for pool in self._pools.values():
            for target in pool.strategy.pool:
                target.unfollow()
        self._pools = {}

    def look_at_breakers(self, targets: Iterable[Target], now: float) -> None:
        """To be called for all every second, and for one of which a request has told something."""
        changed = False
        for target in targets:
            blocked = not target.breaker.lets_pass(now)
            changed |= blocked is not target.blocked
            target.blocked = blocked
        if changed:
            self.refresh()

    def route(self, ask: Ask) -> Decision:
        """Decide who answers.

        Raises:
            Forbidden: the client may not ask for what it names.
            ModelNotFound, InvalidRequest: what it names can't be had, whatever the state of things.
            Unavailable: as things stand nobody can answer, not even those that stand in for the candidates.
        """
        name = ask.model or self.table.default
        rules = self._routes.get(name)
        if rules is None:
            return self._named(name, ask)
        try:
            pool = self._pool(name, rules, ask)
        except Unavailable:
            if (last := self._last_resort(rules, ask, ())) is None:
                raise
            return Decision(asked=name, strategy=rules.strategy.value, version=last, candidates=0)
        if pool.test is not None:
            return self._by_test(pool.test, pool, name, ask)
        version = pool.strategy.choose(ask).version
        return Decision(asked=name, strategy=pool.name, version=version, candidates=pool.candidates)

    def _by_test(self, test: Split, pool: Pool, name: str, ask: Ask) -> Decision:
        variant = test.draw(ask, self._draw)
        target = test.answering(variant) or pool.strategy.choose(ask)
        return Decision(
            asked=name,
            strategy=pool.name,
            version=target.version,
            candidates=2,
            test=test,
            variant=variant,
            copied=test.copies > 0 and self._draw() < test.copies,
        )

    def explain(self, ask: Ask) -> Explanation:
        """How a request would be routed now. It changes nothing, so the next request is routed as if it had not been
        asked. O(candidates)."""
        name = ask.model or self.table.default
        rules = self._routes.get(name)
        strategy = NAMED if rules is None else rules.strategy.value
        try:
            foretold = Foretold(self._named(name, ask).version) if rules is None else self._foretell(name, rules, ask)
        except ApiError as fault:
            foretold = Foretold(None, error=fault.message)
        chosen = foretold.version
        return Explanation(
            asked=name,
            strategy=strategy,
            chosen=None if chosen is None else chosen.name,
            candidates=foretold.candidates,
            refused=foretold.refused(self._refusals(name, rules, ask)),
            fallbacks=tuple(self._following(ask, Decision(asked=name, strategy=strategy, version=chosen)))
            if chosen is not None
            else (),
            variant=foretold.variant or "",
            error=foretold.error,
        )

    def _refusals(self, name: str, rules: Rules | None, ask: Ask) -> list[Refusal]:
        if rules is not None:
            return self.table.refusals(rules, self._need(ask))
        allowed = ask.allowed.models
        return self.table.refusals_of_named(name) if allowed is None or self.table.allows(allowed, name) else []

    def _foretell(self, name: str, rules: Rules, ask: Ask) -> Foretold:
        """What :meth:`route` would do, as far as it draws nothing."""
        try:
            pool = self._pool(name, rules, ask)
        except Unavailable:
            if (last := self._last_resort(rules, ask, ())) is None:
                raise
            return Foretold(last)
        return by_strategy(pool.strategy, ask) if pool.test is None else by_test(pool.test, pool.strategy, ask)

    def _following(self, ask: Ask, decision: Decision) -> Iterator[str]:
        tried = {decision.version.pk}
        while len(tried) <= _MOST_NAMES and (version := self.fallback(ask, decision, tried)) is not None:
            tried.add(version.pk)
            yield version.name

    def fallback(self, ask: Ask, decision: Decision, tried: Collection[int]) -> Version | None:
        """Who is asked next, when those that were tried (by primary key) could not answer; None: nobody is left.

        Under an A/B test that is the other variant. The route's other candidates come next, who is above
        ``max_load_threshold`` after who is not; then its ``fallback_models``, and last the default model. A model that
        was named has the fallbacks that its operator gave it, and no others.
        """
        rules = self._routes.get(decision.asked)
        if rules is None:
            return None if decision.pinned else self._first_named(self._fallbacks_of(decision.asked), ask, tried)
        try:
            pool = self._pool(decision.asked, rules, ask)
        except Unavailable:
            candidates: list[Target] = []
        else:
            candidates = sorted(pool.strategy.pool, key=lambda each: load_rank(each, rules.max_load_threshold))
            candidates += pool.others
            if pool.test is not None:
                candidates = [*pool.test.answer, *candidates]
        for target in candidates:
            if target.version.pk not in tried:
                return target.version
        return self._last_resort(rules, ask, tried)

    def _last_resort(self, rules: Rules, ask: Ask, tried: Collection[int]) -> Version | None:
        """Who is asked when there is no candidate, or none is left. A route that is ``warm_only`` has no model loaded
        that its operator did not name."""
        default = self.table.default
        stays_away = default == AUTO or (rules.warm_only and not self._is_warm(default))
        last = rules.fallback_models if stays_away else (*rules.fallback_models, default)
        # A chat model embeds for who names it; who leaves the choice to us wants a model that is made for it.
        able = (each for each in last if self.table.has(each, self._need(ask).capabilities))
        return self._first_named(able, ask, tried)

    def _is_warm(self, name: str) -> bool:
        return self.table.has(name, frozenset()) and self.targets.of(self.table.named(name)[0]).warm

    def at_hand(self, ask: Ask, decision: Decision, tried: Collection[int]) -> Version | None:
        """Another candidate that need not be loaded, for a request that waits for one that must: the other variant of
        an A/B test, or the least loaded one, below the threshold, of those that were not tried. None: there is none, or
        the model was named."""
        rules = self._routes.get(decision.asked)
        if rules is None:
            return None
        try:
            pool = self._pool(decision.asked, rules, ask)
        except Unavailable:
            return None
        threshold = rules.max_load_threshold
        for group in (pool.test.answer if pool.test is not None else (), pool.strategy.pool):
            ready = [each for each in group if each.version.pk not in tried and is_at_hand(each, threshold)]
            if ready:
                return min(ready, key=lambda each: load_rank(each, threshold)).version
        return None

    def _pool(self, route: str, rules: Rules, ask: Ask) -> Pool:
        allowed, needed = ask.allowed, _KINDS[ask.kind]
        if allowed.routes is not None and route not in allowed.routes:
            raise not_allowed("route", route, allowed.routes)
        if ask.capabilities:
            needed |= ask.capabilities
        key = route, needed, allowed.models, self.table.context_for(ask.tokens) if ask.tokens else 0
        pool = self._pools.get(key)
        return pool if pool is not None else self._make_pool(key, rules, self._need(ask), ask.now)

    def _need(self, ask: Ask) -> Need:
        """In full, as the key of a pool has it."""
        needed = _KINDS[ask.kind] | ask.capabilities
        return Need(capabilities=needed, models=ask.allowed.models, tokens=self.table.context_for(ask.tokens))

    def _make_pool(self, key: PoolKey, rules: Rules, need: Need, now: float) -> Pool:
        ranked = self.table.ranked(rules, need)
        if not ranked:
            raise self._nobody(rules, need)
        best = ranked[0][0]
        setting = Setting(
            pool=tuple(target for rank, target in ranked if rank == best),
            rules=rules,
            targets=self.targets,
            random=self._draw,
            pins=self._pins.setdefault(key[0], Pins()),
        )
        strategy = BY_NAME[rules.strategy](setting)
        if isinstance(strategy, RoundRobin):
            strategy.turn = self._turns.get(key, 0)
        elif isinstance(strategy, AffinityBased):
            self._tell_strays(key, strategy, now)
        if len(self._pools) >= _MOST_POOLS:
            self.refresh()
        others = tuple(target for rank, target in ranked if rank != best)
        pool = self._pools[key] = Pool(
            strategy.name.value, strategy, len(setting.pool), others, self._test(key[0], rules, need)
        )
        return pool

    def _tell_strays(self, key: PoolKey, strategy: AffinityBased, now: float) -> None:
        """Where the candidates have changed, a session may be where rendezvous would not have it."""
        members = tuple(target.version.model for target in strategy.pool)
        if self._members.get(key, members) != members and (strays := strategy.strays(now)):
            self._strayed(key[0], strays)
        if len(self._members) >= _MOST_POOLS:
            self._members.clear()
        self._members[key] = members

    def adopt(self, route: str, session: str, model: str, used_at: float, now: float) -> None:
        """Another gateway says where a session is."""
        since = now - self.rules(route).affinity_timeout_sec
        self._pins.setdefault(route, Pins()).adopt(session, model, used_at, since)

    def _test(self, route: str, rules: Rules, need: Need) -> Split | None:
        """A variant need be none of the route's candidates."""
        if not rules.ab_test_enabled:
            return None
        able = {
            target.version.model: target
            for rank, target in self.table.ranked(msgspec.structs.replace(rules, candidates=None), need)
            if not rank.failed and not rank.blocked and not rank.exhausted
        }
        return Split.of(route, rules, able)

    def _named(self, name: str, ask: Ask) -> Decision:
        allowed = ask.allowed
        if allowed.models is not None and not self.table.allows(allowed.models, name):
            raise not_allowed("model", name, allowed.models)
        try:
            (version,) = self.table.named(name, self._routes if allowed.routes is None else allowed.routes)
        except (ModelNotFound, Unavailable):
            fallback = None if "@" in name else self._first_named(self._fallbacks_of(name), ask, ())
            if fallback is None:
                raise
            return Decision(asked=name, strategy=NAMED, version=fallback)
        require_capabilities(name, version, ask.kind, ask.capabilities)
        return Decision(asked=name, strategy=NAMED, version=version)

    def _fallbacks_of(self, model: str) -> Iterator[str]:
        """A model's own fallbacks, and theirs: the nearest first. They go in no circle (:func:`routing.config.check`),
        but may meet."""
        fallbacks, known = self._routing.model_fallbacks, set[str]()
        waiting = deque(fallbacks.get(model, ()))
        while waiting:
            if (name := waiting.popleft()) not in known:
                known.add(name)
                waiting.extend(fallbacks.get(name, ()))
                yield name

    def _first_named(self, names: Iterable[str], ask: Ask, tried: Collection[int]) -> Version | None:
        for name in names:
            try:
                version = self._named(name, msgspec.structs.replace(ask, model=name)).version
            except ApiError:
                continue
            if version.pk not in tried:
                return version
        return None

    def _nobody(self, rules: Rules, need: Need) -> Unavailable:
        """Nothing is said of models that the client may not ask for."""
        refusals = self.table.refusals(rules, need)
        if not refusals and need.models is not None:
            return Unavailable(
                "There is none of the models that this API key may use: have it allowed another.",
                code="no_healthy_model",
                retry_after=30,
            )
        if not refusals:
            return Unavailable("No model is registered yet: put a GGUF into the models directory.", retry_after=5)
        reasons = "; ".join(f"'{refusal.model}' {refusal.reason}" for refusal in refusals[:_MOST_REASONS])
        more = f"; and {len(refusals) - _MOST_REASONS} more" if len(refusals) > _MOST_REASONS else ""
        if any(refusal.lacks for refusal in refusals):
            wanted = ", ".join(sorted(need.capabilities))
            hint = " A chat model embeds when it is named." if need.capabilities == _KINDS["embedding"] else ""
            return Unavailable(
                f"No model that can answer now has all of: {wanted}. {reasons}{more}.{hint}",
                code="capability_unavailable",
                param="capabilities",
                retry_after=30,
            )
        return Unavailable(f"No model can answer now: {reasons}{more}.", code="no_healthy_model", retry_after=5)


def not_allowed(what: str, name: str, allowed: Collection[str]) -> Forbidden:
    """It says the same whether there is such a thing or not."""
    known = ", ".join(f"'{each}'" for each in sorted(allowed)[:_MOST_NAMES]) or "none"
    more = f" and {len(allowed) - _MOST_NAMES} more" if len(allowed) > _MOST_NAMES else ""
    return Forbidden(f"This API key may not use the {what} '{name[:200]}'; it may use: {known}{more}.", param="model")
