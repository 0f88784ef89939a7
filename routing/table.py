"""What can be prepared for routing when the registry or a replica changes, so that a request costs two look-ups.

Who is a candidate of ``auto``, in this order (only those of the best rank that exists):

    (1) can run now       a version whose last load or process failed comes after everything else
    (2) not the starter   the built-in model answers only while no other can
    (3) health            healthy before degraded before unknown and loading; unhealthy never
"""

import difflib
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import msgspec

from registry.catalogue import Catalogue, Health, Model, Version
from registry.errors import InvalidRequest, ModelNotFound, Unavailable
from registry.presentation import promotion
from routing.decision import Refusal

AUTO = "auto"

_POOLS = 1024
"""Remembered pools; more are chosen each time. Clients name capabilities, and keys models, so something must bound
them."""

_NEAREST_AMONG = 2000
"""Ids compared with a misspelt one, at most: a wrong name must not stop the event loop for longer than a few ms."""

_HEALTH_RANK = {Health.HEALTHY: 0, Health.DEGRADED: 1, Health.UNKNOWN: 2, Health.LOADING: 2}

Rank = tuple[bool, bool, int]


class Candidate(msgspec.Struct, frozen=True):
    rank: Rank
    version: Version


class RouteTable:
    """Immutable but for what it remembers of its own answers."""

    def __init__(self, catalogue: Catalogue, failed: Mapping[int, str] = MappingProxyType({})) -> None:
        """``failed``: versions (by primary key) that can't run at the moment, with the reason."""
        self._catalogue = catalogue
        self._failed = failed
        self._candidates = tuple(self._rank_candidates())
        self._pools: dict[tuple[frozenset[str], frozenset[str] | None], tuple[Version, ...]] = {}
        self._named = dict(self._name_versions())

    @property
    def default(self) -> str:
        """What a request that names nothing gets. A starter model that nobody chose stands back as under ``auto``."""
        default = self._catalogue.default
        if default is None or (default.starter and not default.is_default):
            return AUTO
        return default.id

    def pool(self, capabilities: frozenset[str], models: frozenset[str] | None = None) -> tuple[Version, ...]:
        """The candidates of ``auto`` among the models that have all of ``capabilities``; perhaps none.

        Args:
            models: ids of those that may be asked. None: all.
        """
        wanted = capabilities, models
        pool = self._pools.get(wanted)
        if pool is None:
            pool = self._choose_pool(capabilities, models)
            if len(self._pools) < _POOLS:
                self._pools[wanted] = pool
        return pool

    def named(self, name: str) -> tuple[Version]:
        """The version that ``<id>`` or ``<id>@<version>`` means, as the only candidate.

        Raises:
            ModelNotFound: no such model or version, or it is disabled.
            Unavailable: it exists and can't be used.
        """
        version = self._named.get(name)
        if version is None:
            raise self._why_not(name)
        return version

    def allows(self, models: frozenset[str], name: str) -> bool:
        """Whether ``<id>`` or ``<id>@<version>`` is one of these models, or another name of one."""
        model_id = name.partition("@")[0]
        model = self._catalogue.models.get(model_id)
        return model_id in models or (model is not None and model.alias_of in models)

    def refusals(self, capabilities: frozenset[str], models: frozenset[str] | None = None) -> list[Refusal]:
        """Why each of these models that is not in the pool is not. Made on demand: for errors, explanations and debug
        logs."""
        pool = {version.pk for version in self.pool(capabilities, models)}
        return [
            self._refusal(model, capabilities)
            for model in self._catalogue.models.values()
            if models is None or self.allows(models, model.id)
            if model.promoted is None or model.promoted.pk not in pool or model.alias_of is not None
        ]

    def _rank_candidates(self) -> Iterator[Candidate]:
        for _, model in sorted(self._catalogue.models.items()):
            version = model.promoted
            if version is not None and model.alias_of is None and not _unusable(model, version):
                yield Candidate((version.pk in self._failed, model.starter, _HEALTH_RANK[version.health]), version)

    def _name_versions(self) -> Iterator[tuple[str, tuple[Version]]]:
        for model in self._catalogue.models.values():
            if model.promoted is not None and not _unusable(model, model.promoted):
                yield model.id, (model.promoted,)
            for number, version in model.versions.items():
                if not _unusable(model, version):
                    yield f"{model.id}@{number}", (version,)

    def _choose_pool(self, capabilities: frozenset[str], models: frozenset[str] | None) -> tuple[Version, ...]:
        able = [
            candidate
            for candidate in self._candidates
            if capabilities <= candidate.version.capabilities and (models is None or candidate.version.model in models)
        ]
        best = min((candidate.rank for candidate in able), default=None)
        return tuple(candidate.version for candidate in able if candidate.rank == best)

    def _why_not(self, name: str) -> ModelNotFound | Unavailable:
        model_id, at, number = name.partition("@")
        model = self._catalogue.models.get(model_id)
        if model is None:
            return ModelNotFound(_unknown(model_id, list(self._catalogue.models)), param="model")
        if at and number not in model.versions:
            known = ", ".join(sorted(model.versions)) or "none"
            wrong = number[:50]
            return ModelNotFound(f"The model '{model_id}' has no version '{wrong}'. It has: {known}.", param="model")
        if not model.enabled:
            return ModelNotFound(f"The model '{model_id}' is disabled. An operator can enable it.", param="model")
        version = model.versions[number] if at else model.promoted
        reason = _unusable(model, version) if version else _unpromoted(model)
        return Unavailable(f"The model '{name}' can't answer: it {reason}.", code="no_healthy_model", retry_after=30)

    def _refusal(self, model: Model, capabilities: frozenset[str]) -> Refusal:
        version = model.promoted
        if version is None:
            return Refusal(model.id, _unpromoted(model))
        if model.alias_of is not None:
            return Refusal(model.id, f"is another name of '{model.alias_of}'")
        missing = capabilities - version.capabilities
        # A file so broken that nothing is known of it lacks everything; that is not what to tell.
        if model.enabled and missing and version.capabilities:
            return Refusal(model.id, f"lacks {_words(missing)}", lacks=True)
        if reason := _unusable(model, version):
            return Refusal(model.id, reason)
        if missing:
            return Refusal(model.id, "has no known capability")
        if version.pk in self._failed:
            return Refusal(model.id, f"failed ({self._failed[version.pk]})")
        if model.starter:
            return Refusal(model.id, "is the starter model, and another can answer")
        return Refusal(model.id, f"is {version.health}, and another is better")


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


def _unusable(model: Model, version: Version) -> str:
    """Why this version can never be chosen as things stand; empty if it can."""
    if not model.enabled:
        return "is disabled"
    if version.health not in _HEALTH_RANK:
        return f"is {version.health}" + (f" ({version.health_reason})" if version.health_reason else "")
    if not version.files:
        return "has no file"
    return ""


def _unpromoted(model: Model) -> str:
    """Why a model without a promoted version can't answer: what is wrong with its newest one, if anything is."""
    newest = next(iter(model.versions.values()), None)
    if newest is None:
        return "has no version"
    return _unusable(model, newest) or (
        f"has no version that is promoted to serve; an operator does it with: {promotion(model.id, newest.version)}"
    )


def _unknown(name: str, ids: list[str]) -> str:
    lowered = {model_id.lower(): model_id for model_id in ids[:_NEAREST_AMONG]}
    near = [lowered[match] for match in difflib.get_close_matches(name[:200].lower(), lowered, n=3, cutoff=0.5)]
    hint = f" Did you mean {' or '.join(repr(model_id) for model_id in near)}?" if near else ""
    return f"The model '{name[:200]}' does not exist.{hint} GET /v1/models lists all models."


def _words(capabilities: frozenset[str]) -> str:
    return ", ".join(sorted(capabilities)) or "nothing"
