"""Who may answer what, prepared when the registry, the configuration or a replica changes: a request then costs a
look-up or two.

Who is a candidate of a route. First those that are not able are left out, each with its reason:

    not named by the route's ``candidates``, or not allowed to the key
    disabled, without a file, without a promoted version, unhealthy (unless ``enable_health_checks`` is off)
    lacking a capability
    cold, where the route is ``warm_only``

Then only those of the best rank that exists:

    (1) can run now       a version whose last load or process failed comes after everything else
    (2) does not fail     who has failed several requests in a row comes after who has not (:mod:`routing.breaker`)
    (3) not the starter   the built-in model answers only while no other can
    (4) health            healthy before degraded before unknown and loading
    (5) something left    who has nothing left of its limits comes after who has (``enable_quota_checks``)
    (6) long enough       whose context is too short for the request, as far as can be told, comes after whose is not

The others are asked when those fail.
"""

import difflib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from registry.catalogue import Catalogue, Health, Model, Version
from registry.errors import InvalidRequest, ModelNotFound, Unavailable
from registry.presentation import promotion
from routing.config import AUTO, Rules
from routing.decision import Refusal
from routing.targets import Target, Targets

_NEAREST_AMONG = 2000
"""Ids compared with a misspelt one, at most: a wrong name must not stop the event loop for longer than a few ms."""

_HEALTH_RANK = {Health.HEALTHY: 0, Health.DEGRADED: 1, Health.UNKNOWN: 2, Health.LOADING: 2}


class Rank(NamedTuple):
    """The lower, the better: see above."""

    failed: bool
    blocked: bool
    starter: bool
    health: int
    exhausted: bool
    short: bool


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What a candidate must be able to do for a request. Requests of one need share their pool."""

    capabilities: frozenset[str]
    models: frozenset[str] | None = None
    """Ids of those that may be asked. None: all."""
    tokens: int = 0
    """The context that it must have."""


class RouteTable:
    """Immutable."""

    def __init__(
        self, catalogue: Catalogue, failed: Mapping[int, str] = MappingProxyType({}), targets: Targets | None = None
    ) -> None:
        """
        Args:
            failed: versions (by primary key) that can't run at the moment, with the reason.
            targets: how they are doing.
        """
        self._catalogue = catalogue
        self._failed = failed
        self._targets = targets or Targets()
        self._named = dict(self._name_versions())
        lengths = {version.context_length for (version,) in self._named.values() if version.context_length}
        self._contexts = sorted(lengths)

    @property
    def default(self) -> str:
        """What a request that names nothing gets. A starter model that nobody chose stands back as under ``auto``."""
        default = self._catalogue.default
        if default is None or (default.starter and not default.is_default):
            return AUTO
        return default.id

    def versions(self) -> Iterator[Version]:
        """All that there are, whatever their state; one may come more than once."""
        for model in self._catalogue.models.values():
            yield from model.versions.values()
            if model.promoted is not None:
                yield model.promoted

    @property
    def contexts_differ(self) -> bool:
        """Some models have longer contexts than others: it matters how long a request is."""
        return len(self._contexts) > 1

    def context_for(self, tokens: int) -> int:
        """The shortest context of any model that so many fit into; requests that it is alike for share a pool. 0: they
        fit into all."""
        contexts = self._contexts
        if not contexts or tokens <= contexts[0]:
            return 0
        place = bisect_left(contexts, tokens)
        return contexts[place] if place < len(contexts) else contexts[-1] + 1

    def ranked(self, rules: Rules, need: Need) -> list[tuple[Rank, Target]]:
        """All that are able, the best first."""
        able = []
        for model in self._models(rules):
            version = model.promoted
            if version is not None and not self._why_unable(model, rules, need):
                target = self._targets.of(version)
                able.append((self._rank(model, target, rules, need), target))
        able.sort(key=lambda each: each[0])
        return able

    def refusals(self, rules: Rules, need: Need) -> list[Refusal]:
        """Why each of the models that it may use is no candidate, unless it is. Made on demand: for errors,
        explanations and debug logs."""
        ranked = self.ranked(rules, need)
        best = {target.version.pk for rank, target in ranked if rank == ranked[0][0]}
        refusals = []
        for model in self._catalogue.models.values():
            if need.models is not None and not self.allows(need.models, model.id):
                continue
            if model.alias_of is not None or model.promoted is None or model.promoted.pk not in best:
                refusals.append(self._refusal(model, rules, need))
        return refusals

    def named(self, name: str, routes: Iterable[str] = ()) -> tuple[Version]:
        """The version that ``<id>`` or ``<id>@<version>`` means, as the only candidate.

        Args:
            routes: what else the name may have been meant for.

        Raises:
            ModelNotFound: no such model or version, or it is disabled.
            Unavailable: it exists and can't be used.
        """
        version = self._named.get(name)
        if version is None:
            raise self._why_not(name, routes)
        return version

    def refusals_of_named(self, name: str) -> list[Refusal]:
        """Why ``<id>`` or ``<id>@<version>`` can't answer; empty: it can, or it is not known."""
        model_id, at, number = name.partition("@")
        model = self._catalogue.models.get(model_id)
        if name in self._named or model is None or (at and number not in model.versions):
            return []
        return [Refusal(model_id, _why_named_unusable(model, number if at else ""))]

    def has(self, name: str, capabilities: frozenset[str]) -> bool:
        """Whether ``<id>`` can answer, and has all of them."""
        known = self._named.get(name)
        return known is not None and capabilities <= known[0].capabilities

    def allows(self, models: frozenset[str], name: str) -> bool:
        """Whether ``<id>`` or ``<id>@<version>`` is one of these models, or another name of one."""
        model_id = name.partition("@")[0]
        model = self._catalogue.models.get(model_id)
        return model_id in models or (model is not None and model.alias_of in models)

    def _name_versions(self) -> Iterator[tuple[str, tuple[Version]]]:
        for model in self._catalogue.models.values():
            if model.promoted is not None and not _unusable(model, model.promoted):
                yield model.id, (model.promoted,)
            for number, version in model.versions.items():
                if not _unusable(model, version):
                    yield f"{model.id}@{number}", (version,)

    def _models(self, rules: Rules) -> Iterator[Model]:
        """That the route speaks of, each once and always in the same order."""
        models = self._catalogue.models
        names = models if rules.candidates is None else [name for name in rules.candidates if name in models]
        return (models[name] for name in sorted(names) if models[name].alias_of is None)

    def _rank(self, model: Model, target: Target, rules: Rules, need: Need) -> Rank:
        version = target.version
        return Rank(
            failed=version.pk in self._failed,
            blocked=target.blocked,
            starter=model.starter,
            health=_HEALTH_RANK.get(version.health, 0) if rules.enable_health_checks else 0,
            exhausted=target.exhausted and rules.enable_quota_checks,
            short=version.context_length is not None and version.context_length < need.tokens,
        )

    def _why_unable(self, model: Model, rules: Rules, need: Need) -> Refusal | None:
        """None: it is able."""
        version = model.promoted
        if version is None:
            return Refusal(model.id, _unpromoted(model))
        if model.alias_of is not None:
            return Refusal(model.id, f"is another name of '{model.alias_of}'")
        if need.models is not None and model.id not in need.models:
            return Refusal(model.id, "may not be used with this API key")
        if rules.candidates is not None and model.id not in rules.candidates:
            return Refusal(model.id, "is no candidate of the route")
        missing = need.capabilities - version.capabilities
        # A file so broken that nothing is known of it lacks everything; that is not what to tell.
        if model.enabled and missing and version.capabilities:
            return Refusal(model.id, f"lacks {_words(missing)}", lacks=True)
        if reason := _unusable(model, version, health_checks=rules.enable_health_checks):
            return Refusal(model.id, reason)
        if missing:
            return Refusal(model.id, "has no known capability")
        if rules.warm_only and not self._targets.of(version).warm:
            return Refusal(model.id, "would have to be loaded, and the route is warm_only")
        return None

    def _why_not(self, name: str, routes: Iterable[str]) -> ModelNotFound | Unavailable:
        model_id, at, number = name.partition("@")
        model = self._catalogue.models.get(model_id)
        if model is None:
            return ModelNotFound(_unknown(model_id, [*routes, *self._catalogue.models]), param="model")
        if at and number not in model.versions:
            known = ", ".join(sorted(model.versions)) or "none"
            wrong = number[:50]
            return ModelNotFound(f"The model '{model_id}' has no version '{wrong}'. It has: {known}.", param="model")
        if not model.enabled:
            return ModelNotFound(f"The model '{model_id}' is disabled. An operator can enable it.", param="model")
        reason = _why_named_unusable(model, number if at else "")
        return Unavailable(f"The model '{name}' can't answer: it {reason}.", code="no_healthy_model", retry_after=30)

    def _refusal(self, model: Model, rules: Rules, need: Need) -> Refusal:
        if (unable := self._why_unable(model, rules, need)) is not None:
            return unable
        assert model.promoted is not None  # or it would be unable
        version, target = model.promoted, self._targets.of(model.promoted)
        if version.pk in self._failed:
            return Refusal(model.id, f"failed ({self._failed[version.pk]})")
        if target.blocked:
            return Refusal(model.id, "has failed several requests in a row, and is left alone for a while")
        if model.starter:
            return Refusal(model.id, "is the starter model, and another can answer")
        if rules.enable_health_checks and version.health is not Health.HEALTHY:
            return Refusal(model.id, f"is {version.health}, and another is better")
        if target.exhausted:
            return Refusal(model.id, "has nothing left of its limits")
        return Refusal(
            model.id, f"has a context of {version.context_length} tokens, and some {need.tokens} are asked for"
        )


def require_capabilities(name: str, version: Version, kind: str, wanted: frozenset[str]) -> None:
    """Check a model that the client named itself.

    Raises:
        InvalidRequest: the model can't do what is asked of it, now or later.
    """
    able = version.capabilities
    if able.isdisjoint(_SERVED_BY[kind]):
        raise InvalidRequest(
            f"The model '{name}' does not do {_KIND_WORDS[kind]}; it does: {_words(able)}.",
            param="model",
            code="capability_unavailable",
        )
    if not wanted <= able:
        raise InvalidRequest(
            f"The model '{name}' lacks {_words(wanted - able)}; it has: {_words(able)}. "
            'Use "model": "auto" to let the router find one that has them.',
            param="capabilities",
        )


_KIND_WORDS = {"chat": "chat completions", "completion": "text completions", "embedding": "embeddings"}

_SERVED_BY = {"chat": {"chat"}, "completion": {"completion"}, "embedding": {"embedding", "completion"}}
"""Whoever names a model that writes text gets what it makes of a text, too; ``auto`` takes those made for it only."""


def _unusable(model: Model, version: Version, *, health_checks: bool = True) -> str:
    """Why this version can never be chosen as things stand; empty if it can."""
    if not model.enabled:
        return "is disabled"
    if health_checks and version.health not in _HEALTH_RANK:
        return f"is {version.health}" + (f" ({version.health_reason})" if version.health_reason else "")
    if not version.files and not version.remote:
        return "has no file"
    return ""


def _why_named_unusable(model: Model, number: str) -> str:
    """``number``: of its version; empty: of the promoted one."""
    version = model.versions[number] if number else model.promoted
    return _unusable(model, version) if version else _unpromoted(model)


def _unpromoted(model: Model) -> str:
    """Why a model without a promoted version can't answer: what is wrong with its newest one, if anything is."""
    newest = next(iter(model.versions.values()), None)
    if newest is None:
        return "has no version"
    return _unusable(model, newest) or (
        f"has no version that is promoted to serve; an operator does it with: {promotion(model.id, newest.version)}"
    )


def _unknown(name: str, ids: list[str]) -> str:
    """``ids``: of models and routes."""
    lowered = {model_id.lower(): model_id for model_id in ids[:_NEAREST_AMONG]}
    near = [lowered[match] for match in difflib.get_close_matches(name[:200].lower(), lowered, n=3, cutoff=0.5)]
    hint = f" Did you mean {' or '.join(repr(model_id) for model_id in near)}?" if near else ""
    return f"The model '{name[:200]}' does not exist.{hint} GET /v1/models lists all models."


def _words(capabilities: frozenset[str]) -> str:
    return ", ".join(sorted(capabilities)) or "nothing"
