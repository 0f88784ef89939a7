"""What this node has counted of A/B tests, on its way to SQL: nothing is lost while that is away, and nothing is
counted twice when only the answer was lost."""

from collections.abc import Mapping
from uuid import uuid4

import msgspec

from inference.experiments import experiment_counts
from inference.protocol import ExperimentSums
from routing.experiments.results import ExperimentCounts


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    run: str
    number: int
    counts: Mapping[str, ExperimentCounts]
    """By the test's name: what came since the letter before."""


class Outbox:
    """One letter is under way at a time, and goes out as it is until it has arrived."""

    def __init__(self) -> None:
        self._run = uuid4().hex
        self._number = 0
        self._waiting: dict[str, ExperimentCounts] = {}
        self._under_way: Letter | None = None

    def put(self, tests: Mapping[str, Mapping[str, ExperimentSums]]) -> None:
        """As gateways count them. A roll-out sees to it by itself that its steps are told apart."""
        for name, splits in tests.items():
            for sums in splits.values():
                self._waiting[name] = self._waiting.get(name, ExperimentCounts()) + experiment_counts(sums)

    def next(self) -> Letter | None:
        """None: there is nothing to tell."""
        if self._under_way is None and self._waiting:
            self._number += 1
            self._under_way = Letter(run=self._run, number=self._number, counts=self._waiting)
            self._waiting = {}
        return self._under_way

    def arrived(self) -> None:
        self._under_way = None
