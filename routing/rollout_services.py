"""Writes of roll-outs: what nodes have counted of A/B tests, and how far B has come.

Supervisors write what they have counted, and decide right after it: what is wrong with B is known there first, and no
queue of other work stands before it. Who changes a roll-out holds the lock of the configuration, so that only one does
at a time, and operators come before all of them.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec
import structlog
from django.db import connection, transaction
from django.db.models import QuerySet
from django.utils import timezone

from registry.errors import InvalidRequest
from routing import selectors
from routing.config import AUTO, Rollout, Routing, Rules
from routing.experiments.results import ExperimentCounts
from routing.experiments.rollout import Observed, Progress, advance, begin, share_of_b
from routing.experiments.split import test_of
from routing.experiments.standing import RolloutState, state_of
from routing.models import ExperimentRollout, ExperimentTally

log = structlog.get_logger(module="request_router")

_KEPT = timedelta(days=30)
"""Counts of tests that are configured no more."""

_LOCK = "(hashtext('nopenai'), hashtext('routing'))"


def one_at_a_time() -> None:
    """Until the end of the transaction: revisions have no gaps, and no change is lost."""
    _ask(f"SELECT pg_advisory_xact_lock{_LOCK}")


@transaction.atomic
def experiment_counts_add(*, node: str, run: str, letter: int, counts: Mapping[str, ExperimentCounts]) -> None:
    """Add what a node has counted since its letter before. The same letter once more changes nothing.

    Args:
        run: of the supervisor that tells it.
        letter: ascends within the run.
        counts: by the test's name.
    """
    for test, more in counts.items():
        row = ExperimentTally.objects.select_for_update().filter(test=test, node=node).first()
        row = row or ExperimentTally(test=test, node=node)
        if row.run == run and row.letter >= letter:
            continue
        row.counts = msgspec.to_builtins(selectors.tally_value(row) + more)
        row.run, row.letter, row.updated_at = run, letter, timezone.now()
        row.save()


@transaction.atomic
def rollouts_advance(*, now: float) -> None:
    """Go on with all roll-outs that are running, by what is counted until now. Who can't have the lock leaves it to
    whoever has it, and to the next time.

    Args:
        now: seconds, by PostgreSQL's clock: nodes' own differ.
    """
    if not _running().exists() or not _ask(f"SELECT pg_try_advisory_xact_lock{_LOCK}"):
        return
    routes = selectors.routing_configured().all_rules()
    for row in _running():
        rules = routes.get(row.route, Rules())
        if rules.rollout_running is not None and row.test == test_of(row.route, rules):
            _advance(row, rules.rollout_running, _observed(row.test, now))


@transaction.atomic
def rollout_restart(*, route: str, author: str) -> None:
    """Begin it anew with its first step, whatever became of it.

    Raises:
        InvalidRequest: the route has none.
    """
    one_at_a_time()
    rules = selectors.routing_configured().all_rules().get(route)
    if rules is None or rules.rollout_running is None:
        where = "" if route == AUTO else f"routes.{route}."
        raise InvalidRequest(
            f"The route '{route}' has no roll-out: set '{where}ab_test_enabled' and '{where}ab_test_rollout'.",
            param="route",
        )
    _begin(route, rules, rules.rollout_running)
    log.info("Roll-out begun anew", route=route, test=test_of(route, rules), author=author)


def rollouts_follow(*, before: Routing, after: Routing) -> None:
    """What a change of the configuration means for the roll-outs. Belongs to that change's transaction."""
    old, new = before.all_rules(), after.all_rules()
    for route in sorted(old.keys() | new.keys()):
        rules = new.get(route, Rules())
        if _decisive(rules) == _decisive(old.get(route, Rules())):
            continue
        if rules.rollout_running is None:
            ExperimentRollout.objects.filter(route=route).delete()
        else:
            _begin(route, rules, rules.rollout_running)
            log.info(
                "Roll-out begun", route=route, test=test_of(route, rules), share_of_b=rules.rollout_running.steps[0]
            )
    _forget_old_counts(new)


def _decisive(rules: Rules) -> tuple[object, ...] | None:
    """What a roll-out begins anew for. None: there is none."""
    if rules.rollout_running is None:
        return None
    return (rules.rollout_running, rules.ab_test_model_a, rules.ab_test_model_b, rules.ab_test_split)


def _begin(route: str, rules: Rules, rollout: Rollout) -> None:
    test = test_of(route, rules)
    progress = begin(_observed(test, selectors.database_clock()))
    ExperimentRollout.objects.update_or_create(route=route, defaults={"test": test, **_values(rollout, progress)})


def _advance(row: ExperimentRollout, rollout: Rollout, observed: Observed) -> None:
    before = selectors.progress_value(row)
    after, share = advance(rollout, before, observed)
    if after == before and share == row.share_of_b:
        return
    ExperimentRollout.objects.filter(pk=row.pk).update(**_values(rollout, after))
    told: dict[str, Any] = {"route": row.route, "test": row.test, "share_of_b": share}
    if after.rolled_back is not None:
        log.warning("Roll-out rolled back", **told, step=after.step + 1, reason=after.rolled_back)
    elif after.complete:
        log.info("Roll-out complete", **told)
    elif after.step != before.step:
        log.info("Roll-out went on", **told, step=after.step + 1, steps=len(rollout.steps))


def _values(rollout: Rollout, progress: Progress) -> dict[str, Any]:
    return {
        "state": state_of(progress).value,
        "share_of_b": share_of_b(rollout, progress),
        "progress": msgspec.to_builtins(progress),
    }


def _running() -> QuerySet[ExperimentRollout]:
    return ExperimentRollout.objects.filter(state=RolloutState.RUNNING.value)


def _observed(test: str, now: float) -> Observed:
    counts = selectors.experiment_counts(test=test)
    return Observed(now=now, a=counts.a, b=counts.b)


def _forget_old_counts(routes: Mapping[str, Rules]) -> None:
    """Nodes tell what has come since they told last, so what is forgotten does not come back."""
    known = [test_of(route, rules) for route, rules in routes.items()]
    ExperimentTally.objects.filter(updated_at__lt=timezone.now() - _KEPT).exclude(test__in=known).delete()


def _ask(query: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(query)
        (answer,) = cursor.fetchone()
    return bool(answer)
