"""Counts of A/B tests into SQL, and what follows of them for roll-outs. Runs in the store's thread."""

import structlog
from django.db import DataError, Error

from inference.supervisor.experiments import Letter
from routing.rollout_services import experiment_counts_add, rollouts_advance
from routing.selectors import database_clock

log = structlog.get_logger(module="supervisor")


def experiments_write(node: str, letter: Letter | None) -> None:
    """What would fail again and again is no reason to record nothing else any more."""
    try:
        if letter is not None:
            experiment_counts_add(node=node, run=letter.run, letter=letter.number, counts=letter.counts)
        rollouts_advance(now=database_clock())
    except Exception as fault:
        if isinstance(fault, Error) and not isinstance(fault, DataError):
            raise
        log.exception("A/B tests can't be recorded, or their roll-outs not go on")
