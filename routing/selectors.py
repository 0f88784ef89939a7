"""Reads of how requests find their model, as plain values."""

import msgspec
from django.db import connection
from django.db.models import QuerySet

from registry.errors import NotFound
from registry.models import Model
from routing import config
from routing.config import Routing
from routing.experiments.results import ExperimentCounts
from routing.experiments.rollout import Observed, Progress
from routing.experiments.split import test_of
from routing.experiments.standing import Standing, standing
from routing.models import ExperimentRollout, ExperimentTally, RoutingRevision


class Configured(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration in force. Revision 0 is the defaults, before anybody changed them."""

    revision: int
    config: Routing


def routing_find() -> Configured:
    newest = RoutingRevision.objects.first()
    if newest is None:
        return Configured(revision=0, config=Routing())
    return Configured(revision=newest.number, config=config_value(newest))


def routing_configured() -> Routing:
    """As operators have set it, without what names models that are gone."""
    return without_vanished_models(routing_find().config)


def routing_load() -> Routing:
    """For gateways: without what names models that are gone, and with the splits that roll-outs have come to.

    Both are written in one transaction. What is read of a roll-out that began between the two reads belongs to the
    configuration that comes next: its share of B is its first one, the least.
    """
    routing = routing_configured()
    known = {row.route: row for row in ExperimentRollout.objects.all()}
    shares = {}
    for route, rules in routing.all_rules().items():
        if (rollout := rules.rollout_running) is not None:
            row = known.get(route)
            own = row is not None and row.test == test_of(route, rules)
            shares[route] = row.share_of_b if row is not None and own else rollout.steps[0]
    return config.with_shares(routing, shares)


def rollouts_standing(routing: Routing) -> dict[str, Standing]:
    """By route: of those that are running, or have ended and were not begun anew.

    Args:
        routing: the configuration in force.
    """
    found, now = {}, database_clock()
    for row in ExperimentRollout.objects.order_by("route"):
        rules = routing.all_rules().get(row.route)
        if rules is not None and rules.rollout_running is not None:
            counts = experiment_counts(test=row.test)
            observed = Observed(now=now, a=counts.a, b=counts.b)
            found[row.route] = standing(rules.rollout_running, progress_value(row), observed)
    return found


def experiment_counts(*, test: str) -> ExperimentCounts:
    """Over all nodes, since the first request of the test."""
    return sum(map(tally_value, ExperimentTally.objects.filter(test=test)), ExperimentCounts())


def tally_value(row: ExperimentTally) -> ExperimentCounts:
    return msgspec.convert(row.counts, ExperimentCounts)


def progress_value(row: ExperimentRollout) -> Progress:
    return msgspec.convert(row.progress, Progress)


def database_clock() -> float:
    """Seconds since 1970, as PostgreSQL has them."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
        (now,) = cursor.fetchone()
    return float(now)


def routing_revisions_list() -> QuerySet[RoutingRevision]:
    """Newest first."""
    return RoutingRevision.objects.all()


def routing_revision_find(*, number: int) -> RoutingRevision:
    """Raises NotFound, naming those there are."""
    row = RoutingRevision.objects.filter(number=number).first()
    if row is None:
        newest = routing_find().revision
        known = f"0 to {newest}" if RoutingRevision.objects.exists() else "none: nothing was changed yet"
        raise NotFound(f"There is no routing revision {number}; there are: {known}.", param="number")
    return row


def config_value(row: RoutingRevision) -> Routing:
    return msgspec.convert(row.config, Routing)


def without_vanished_models(routing: Routing) -> Routing:
    return config.without(routing, set(Model.objects.filter(alias_of=None).values_list("name", flat=True)))
