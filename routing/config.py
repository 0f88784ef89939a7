"""How requests find their model, as operators set it: what is kept, and how a partial change becomes the next one.
Pure.

The configuration's own rules are those of the default route, ``auto``; ``routes`` are others, which requests name as
they name a model.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any, TypeVar

import msgspec

from registry.errors import InvalidRequest

AUTO = "auto"

ROUTE_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
MOST_ROUTES = 256
MOST_NAMES = 10_000
"""Models in one list of the configuration."""

HIGHEST_WEIGHT = 1_000_000.0


class Strategy(StrEnum):
    """How one of several candidates is chosen: :mod:`routing.strategies` says each one's rule."""

    ROUND_ROBIN = "round_robin"
    LEAST_LOADED = "least_loaded"
    CACHE_AWARE = "cache_aware"
    QUOTA_AWARE = "quota_aware"
    RANDOM = "random"
    WEIGHTED_RANDOM = "weighted_random"
    LATENCY_BASED = "latency_based"
    AFFINITY_BASED = "affinity_based"


class StickyBy(StrEnum):
    """What keeps to its variant of an A/B test. Requests without it are drawn by themselves."""

    SESSION = "session"
    """``X-Session-ID``."""
    KEY = "key"
    """The API key."""


class Rollout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Variant B gets more and more, as long as it does well; else all goes back to A."""

    steps: tuple[float, ...] = (0.01, 0.05, 0.2, 0.5, 1.0)
    """Shares of B, ascending."""
    step_seconds: float = 600.0
    """The least time between two steps."""
    step_requests: int = 100
    """So many must B have answered in a step."""
    max_error_increase: float = 0.01
    """Rolled back when B's error rate is surely higher than A's by more than this."""
    max_latency_ratio: float = 1.2
    """Rolled back when B's time to first token is surely longer than A's by more than this factor."""


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one route."""

    strategy: Strategy = Strategy.CACHE_AWARE
    max_load_threshold: float = 0.9
    """Candidates whose load (0–1) is above it are passed over while another one's is below."""
    min_cache_hit_rate: float = 0.3
    """``cache_aware``: below it a hit rate says nothing, and load decides."""
    affinity_timeout_sec: float = 300.0
    """``affinity_based``: how long a session sticks after its last request."""
    enable_health_checks: bool = True
    """False: candidates are not filtered by health."""
    enable_quota_checks: bool = True
    """False: nor by what is left of their limits. They are held to them nevertheless."""
    enable_cache_optimization: bool = True
    """False: what candidates hold of a prompt counts for nothing."""
    warm_only: bool = False
    """Models that would have to be loaded are no candidates."""
    model_weights: Mapping[str, float] | None = None
    """``weighted_random``: by model; who is not named has 0. None, or where all candidates of a request have 0:
    by their scores."""
    candidates: tuple[str, ...] | None = None
    """Ids. None: all models."""
    fallback_models: tuple[str, ...] = ()
    """Asked in this order when no candidate has answered."""
    max_retries: int = 3
    """Attempts after the first one, before the first token."""
    retry_delay_ms: int = 100
    """Before the first of them; doubled each time up to 10 s, ± half."""
    hedge_delay_ms: int | None = 1000
    """Who has waited so long for its model to be loaded is answered by another candidate that is ready, below the
    threshold; the load goes on. None: never."""
    ab_test_enabled: bool = False
    ab_test_split: float = 0.5
    """The share of A."""
    ab_test_model_a: str | None = None
    ab_test_model_b: str | None = None
    ab_test_sticky_by: StickyBy = StickyBy.SESSION
    ab_test_mirror: bool = False
    """A answers everything; B gets copies of its share, whose answers are dropped."""
    ab_test_rollout: Rollout | None = None
    """B's share is not the split's but grows in steps. Nothing runs while the test is off."""

    @property
    def rollout_running(self) -> Rollout | None:
        """As long as there is a test that it can be of."""
        return self.ab_test_rollout if self.ab_test_enabled else None


class Routing(Rules, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The configuration as it is kept."""

    routes: Mapping[str, Rules] = {}
    """By name, beside ``auto``."""
    model_fallbacks: Mapping[str, tuple[str, ...]] = {}
    """By the model that a request names: who answers when it can't."""

    def all_rules(self) -> dict[str, Rules]:
        """Of each route, by its name."""
        return {AUTO: self, **self.routes}


R = TypeVar("R", bound=Rules)


def changed(config: Routing, changes: Mapping[str, Any]) -> Routing:
    """The configuration after a partial change: what is not named stays, also within a route; lists and maps of models
    are replaced as a whole.

    Args:
        changes: typed values by field, as the API's and the admin's forms have parsed them. A route that is None is
            removed.

    Raises:
        InvalidRequest: naming the field; the result contradicts itself.
    """
    plain = msgspec.to_builtins(config)
    routes = plain["routes"]
    for name, rules in (changes.get("routes") or {}).items():
        if rules is None:
            routes.pop(name, None)
        else:
            routes[name] = _merged(routes.get(name, {}), rules)
    result = msgspec.convert(_merged(plain, changes) | {"routes": routes}, Routing)
    check(result)
    _refuse_idle_rollouts(result, changes)
    return result


def _merged(plain: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A roll-out's own fields are changed one by one, too."""
    result = {**plain, **changes}
    if changes.get("ab_test_rollout") is not None:
        result["ab_test_rollout"] = {**(plain.get("ab_test_rollout") or {}), **changes["ab_test_rollout"]}
    return result


def _refuse_idle_rollouts(result: Routing, changes: Mapping[str, Any]) -> None:
    """Who sets a roll-out means it to run. One that was set before may wait until its test is on again."""
    named = {AUTO: changes, **{route: rules for route, rules in (changes.get("routes") or {}).items() if rules}}
    for route, rules in result.all_rules().items():
        if named.get(route, {}).get("ab_test_rollout") is not None and not rules.ab_test_enabled:
            prefix = _prefix(route)
            raise InvalidRequest(
                f"'{prefix}ab_test_rollout' is of an A/B test, and there is none: set '{prefix}ab_test_enabled', too.",
                param=prefix + "ab_test_rollout",
            )


def check(config: Routing) -> None:
    """Whether it makes sense, whatever models there are.

    Raises:
        InvalidRequest: naming the field.
    """
    for route, rules in config.all_rules().items():
        _check_rules(rules, _prefix(route))
    if AUTO in config.routes:
        raise InvalidRequest(f"'{AUTO}' is the default route: its fields stand beside 'routes'.", param="routes")
    if cycle := _cycle(config.model_fallbacks):
        raise InvalidRequest(
            f"'model_fallbacks' go in a circle: {_shown(cycle)}. Leave one of them out.", param="model_fallbacks"
        )


def models_named(config: Routing) -> Iterator[tuple[str, str]]:
    """Each field that names a model, and that model's id."""
    for route, rules in config.all_rules().items():
        prefix = _prefix(route)
        for field in ("candidates", "fallback_models", "model_weights"):
            yield from ((prefix + field, model) for model in getattr(rules, field) or ())
        for field in ("ab_test_model_a", "ab_test_model_b"):
            if (model := getattr(rules, field)) is not None:
                yield prefix + field, model
    for model, fallbacks in config.model_fallbacks.items():
        yield from (("model_fallbacks", each) for each in (model, *fallbacks))


def renamed(config: Routing, name: Callable[[str], str]) -> Routing:
    """With other ids for the models that it names."""
    routes = {route: _rules_renamed(rules, name) for route, rules in config.routes.items()}
    fallbacks = {name(model): _names(each, name) for model, each in config.model_fallbacks.items()}
    return msgspec.structs.replace(_rules_renamed(config, name), routes=routes, model_fallbacks=fallbacks)


def without(config: Routing, known_models: Collection[str]) -> Routing:
    """Without what names models that are gone: nobody should have to mend that to change something else. An A/B test
    that has lost a variant is over. A list of candidates stays, even if it becomes empty: it does not mean all."""
    routes = {name: _rules_without(rules, known_models) for name, rules in config.routes.items()}
    fallbacks = {
        model: kept
        for model, each in config.model_fallbacks.items()
        if model in known_models and (kept := tuple(other for other in each if other in known_models))
    }
    return msgspec.structs.replace(_rules_without(config, known_models), routes=routes, model_fallbacks=fallbacks)


def with_shares(config: Routing, shares: Mapping[str, float]) -> Routing:
    """With the splits that roll-outs have come to.

    Args:
        shares: of B, 0–1, by route.
    """
    routes = {route: _with_share(rules, shares.get(route)) for route, rules in config.routes.items()}
    return msgspec.structs.replace(_with_share(config, shares.get(AUTO)), routes=routes)


def _with_share(rules: R, share: float | None) -> R:
    return rules if share is None else msgspec.structs.replace(rules, ab_test_split=1.0 - share)


def _rules_without(rules: R, known: Collection[str]) -> R:
    a, b = rules.ab_test_model_a, rules.ab_test_model_b
    lost = any(model is not None and model not in known for model in (a, b))
    weights = rules.model_weights
    return msgspec.structs.replace(
        rules,
        candidates=None if rules.candidates is None else tuple(each for each in rules.candidates if each in known),
        fallback_models=tuple(each for each in rules.fallback_models if each in known),
        model_weights=None if weights is None else {each: value for each, value in weights.items() if each in known},
        ab_test_enabled=rules.ab_test_enabled and not lost,
        ab_test_model_a=a if a in known else None,
        ab_test_model_b=b if b in known else None,
    )


def _rules_renamed(rules: R, name: Callable[[str], str]) -> R:
    weights, a, b = rules.model_weights, rules.ab_test_model_a, rules.ab_test_model_b
    return msgspec.structs.replace(
        rules,
        candidates=None if rules.candidates is None else _names(rules.candidates, name),
        fallback_models=_names(rules.fallback_models, name),
        model_weights=None if weights is None else {name(model): weight for model, weight in weights.items()},
        ab_test_model_a=None if a is None else name(a),
        ab_test_model_b=None if b is None else name(b),
    )


def _names(models: Iterable[str], name: Callable[[str], str]) -> tuple[str, ...]:
    """Each once."""
    return tuple(dict.fromkeys(name(model) for model in models))


def _prefix(route: str) -> str:
    """What a route's fields are named by in messages."""
    return "" if route == AUTO else f"routes.{route}."


def _check_rules(rules: Rules, prefix: str) -> None:
    if rules.candidates is not None and not rules.candidates:
        raise InvalidRequest(
            f"'{prefix}candidates' names no model, so that nobody could answer: name some, or null for all.",
            param=prefix + "candidates",
        )
    if rules.model_weights is not None and not any(rules.model_weights.values()):
        raise InvalidRequest(
            f"The '{prefix}model_weights' sum to 0, so that nobody could be drawn: give one more, or null for all.",
            param=prefix + "model_weights",
        )
    if rules.ab_test_enabled:
        _check_test(rules, prefix)
    if rules.ab_test_rollout is not None:
        _check_rollout(rules.ab_test_rollout, rules, prefix)


def _check_test(rules: Rules, prefix: str) -> None:
    a, b = rules.ab_test_model_a, rules.ab_test_model_b
    for field, model in (("ab_test_model_a", a), ("ab_test_model_b", b)):
        if model is None:
            raise InvalidRequest(f"An A/B test needs '{prefix}{field}': name a model.", param=prefix + field)
    if a == b:
        raise InvalidRequest(
            f"Both variants of the A/B test are '{a}': name another model as '{prefix}ab_test_model_b'.",
            param=prefix + "ab_test_model_b",
        )


def _check_rollout(rollout: Rollout, rules: Rules, prefix: str) -> None:
    steps = rollout.steps
    if not steps or list(steps) != sorted(set(steps)) or not 0 < steps[0] <= steps[-1] <= 1:
        raise InvalidRequest(
            f"The steps of '{prefix}ab_test_rollout' are shares above 0 up to 1, and must ascend: "
            f"{', '.join(f'{each:g}' for each in steps) or 'there is none'}.",
            param=prefix + "ab_test_rollout",
        )
    if rules.ab_test_mirror:
        raise InvalidRequest(
            f"With '{prefix}ab_test_mirror' A answers everything, so that nothing can be rolled out: set it to false, "
            f"or '{prefix}ab_test_rollout' to null.",
            param=prefix + "ab_test_rollout",
        )


def _cycle(fallbacks: Mapping[str, Collection[str]]) -> list[str]:
    """The models of a circle, the first one again at its end; empty: there is none."""
    done: set[str] = set()
    for start in fallbacks:
        path = {start: iter(fallbacks[start])}
        while path:
            model, others = next(reversed(path.items()))
            other = next(others, None)
            if other is None:
                done.add(model)
                del path[model]
            elif other in path:
                circle = list(path)
                return [*circle[circle.index(other) :], other]
            elif other not in done:
                path[other] = iter(fallbacks.get(other, ()))
    return []


def _shown(cycle: list[str]) -> str:
    return " → ".join(cycle if len(cycle) <= 8 else [*cycle[:6], "…", cycle[-1]])
