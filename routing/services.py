"""Writes of how requests find their model: each is a new revision, which gateways follow within a second."""

from collections.abc import Mapping
from typing import Any

import msgspec
import structlog
from django.db import transaction

from registry.errors import InvalidRequest, ModelNotFound
from registry.models import Model
from registry.services import model_named
from routing import config, selectors
from routing.config import Routing
from routing.models import RoutingRevision
from routing.rollout_services import one_at_a_time, rollouts_follow
from routing.selectors import Configured

log = structlog.get_logger(module="request_router")


@transaction.atomic
def routing_update(*, changes: Mapping[str, Any], author: str, comment: str = "") -> Configured:
    """Change what is named, and keep the result as a revision. Nothing new makes no revision.

    Args:
        changes: as for :func:`routing.config.changed`.

    Raises:
        InvalidRequest: naming the field: a contradiction, a model that is not known.
    """
    one_at_a_time()
    before = selectors.routing_find()
    return _keep(routing_changed(before=before.config, changes=changes), before, author=author, comment=comment)


def routing_changed(*, before: Routing, changes: Mapping[str, Any]) -> Routing:
    """What a change would make of a configuration. Raises as :func:`routing_update`; writes nothing."""
    after = config.changed(selectors.without_vanished_models(before), changes)
    after = _with_own_names(after)
    config.check(after)  # two names may have been one model's
    _refuse_taken_names(after)
    return after


@transaction.atomic
def routing_restore(*, number: int, author: str) -> Configured:
    """Make an earlier configuration the newest one. What names models that are gone since is left out.

    Raises:
        NotFound: naming the revisions there are.
    """
    one_at_a_time()
    wanted = selectors.without_vanished_models(selectors.config_value(selectors.routing_revision_find(number=number)))
    return _keep(wanted, selectors.routing_find(), author=author, comment=f"restored from revision {number}")


def _keep(routing: Routing, before: Configured, *, author: str, comment: str) -> Configured:
    if routing == before.config:
        return before
    if before.revision == 0:
        # What was in force until now can be restored, too.
        defaults = {"config": msgspec.to_builtins(before.config), "comment": "the defaults"}
        RoutingRevision.objects.get_or_create(number=0, defaults=defaults)
    number = before.revision + 1
    RoutingRevision.objects.create(
        number=number, config=msgspec.to_builtins(routing), author=author[:200], comment=comment[:500]
    )
    rollouts_follow(before=before.config, after=routing)
    log.info("Routing changed", revision=number, author=author, strategy=routing.strategy)
    return Configured(revision=number, config=routing)


def _with_own_names(routing: Routing) -> Routing:
    """By the ids of the models themselves: an alias leads to what it stands for."""
    names: dict[str, str] = {}
    for field, model in config.models_named(routing):
        if model not in names:
            try:
                names[model] = model_named(name=model).name
            except ModelNotFound as fault:
                raise InvalidRequest(fault.message, param=field, code="model_not_found") from fault
    return config.renamed(routing, names.__getitem__)


def _refuse_taken_names(routing: Routing) -> None:
    """Of routes: a request could mean either. (Who wants a model that comes later by a route's name asks for it by its
    version.)"""
    taken = Model.objects.filter(name__in=routing.routes).values_list("name", flat=True).first()
    if taken is not None:
        raise InvalidRequest(f"'{taken}' is a model's id: give the route another name.", param=f"routes.{taken}")
