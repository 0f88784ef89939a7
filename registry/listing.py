"""Reads for the REST API and the admin: what operators see, straight from the tables."""

from typing import Any

from django.db.models import Case, CharField, Count, IntegerField, OuterRef, Q, QuerySet, Subquery, Value, When
from django.db.models.functions import Coalesce

from registry import catalogue, selectors, services
from registry.errors import NotFound
from registry.models import Model, Node, Replica, Version
from registry.presentation import model_fields

STATES = (Replica.Observed.READY, Replica.Observed.DRAINING, Replica.Observed.LOADING)
"""Of several replicas, a model shows the state that comes first here; of none of these, ``cold``."""


def models_list() -> list[dict[str, Any]]:
    """Every model as :class:`registry.serializers.ControlledModelOut` has it, by id."""
    states = _states()
    extra = dict(Model.objects.values_list("name", "extra_capabilities"))
    known = selectors.catalogue_load().models.values()
    return [_controlled(model, states, extra.get(model.id, [])) for model in known]


def model_find(*, name: str) -> dict[str, Any]:
    """One of :func:`models_list`. Raises ModelNotFound, with the nearest ids."""
    found = next((model for model in models_list() if model["id"] == name), None)
    if found is None:
        services.model_named(name=name)
        # It appeared since the list was read; the list is right again now.
        return model_find(name=name)
    return found


def versions_list(*, name: str) -> QuerySet[Version]:
    """The versions of a model, newest first. Raises ModelNotFound."""
    return (
        Version.objects.select_related("model")
        .prefetch_related("tunings")
        .filter(model=services.model_named(name=name))
    )


def version_find(*, name: str, number: str | None) -> Version:
    """A version by its number; the promoted one if that is None.

    Raises:
        ModelNotFound: with the nearest ids.
        NotFound: naming the versions there are.
    """
    versions = list(versions_list(name=name))
    for version in versions:
        if version.number == number or (number is None and version.pk == version.model.promoted_id):
            return version
    missing = "no promoted version" if number is None else f"no version {number}"
    known = ", ".join(version.number for version in versions) or "none"
    raise NotFound(f"'{name}' has {missing}; it has: {known}.", param="version")


def nodes_list() -> QuerySet[Node]:
    """Nodes with ``loaded``, the number of replicas that are in memory there."""
    return Node.objects.annotate(loaded=Count("replicas", filter=Q(replicas__observed__in=STATES)))


def node_find(*, name: str) -> Node:
    """Raises NotFound, naming the nodes there are."""
    node = nodes_list().filter(name=name).first()
    if node is None:
        known = ", ".join(Node.objects.values_list("name", flat=True)) or "none: no supervisor has started yet"
        raise NotFound(f"There is no node '{name}'; known nodes: {known}.", param="node")
    return node


def replicas_list(*, version: Version | None = None) -> QuerySet[Replica]:
    rows = Replica.objects.select_related("node", "version__model")
    return rows if version is None else rows.filter(version=version)


def state_of_promoted() -> Coalesce:
    """The state of the best replica of a model's promoted version, in SQL; ``cold`` without any."""
    rank = Case(
        *(When(observed=state, then=Value(position)) for position, state in enumerate(STATES)),
        default=Value(len(STATES)),
        output_field=IntegerField(),
    )
    best = Replica.objects.filter(version=OuterRef("promoted")).annotate(rank=rank).order_by("rank")
    return Coalesce(Subquery(best.values("observed")[:1], output_field=CharField()), Value(Replica.Observed.COLD))


def _states() -> dict[int, str]:
    """The best state among the replicas of each version, by its primary key."""
    best: dict[int, str] = {}
    for state in reversed(STATES):
        best |= dict.fromkeys(Replica.objects.filter(observed=state).values_list("version_id", flat=True), state.value)
    return best


def _controlled(model: catalogue.Model, states: dict[int, str], extra_capabilities: list[str]) -> dict[str, Any]:
    promoted = model.promoted
    shown = promoted or next(iter(model.versions.values()), None)
    return {
        **model_fields(model, state=states.get(promoted.pk, "cold") if promoted else "cold"),
        "is_default": model.is_default,
        "alias_of": model.alias_of,
        "extra_capabilities": extra_capabilities,
        "replicas": shown.replicas if shown else 1,
        "health_reason": shown.health_reason if shown else "",
        "backend": shown.path if shown and shown.remote else None,
        "versions": list(model.versions),
    }
