"""The record of one routing decision, and of why a model was not among the candidates."""

import msgspec

from registry.catalogue import Version
from routing.experiments.assignment import Variant
from routing.experiments.split import Split

NAMED = "named"
"""Stands for the strategy where the client left no choice."""


class Refusal(msgspec.Struct, frozen=True):
    """Why a model is no candidate, in words that follow the model's name."""

    model: str
    reason: str
    lacks: bool = False
    """The model is sound, and can't do what is asked."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One of those that were to choose from."""

    model: str
    version: str
    score: float
    """By the strategy: the higher, the sooner it is chosen; by an A/B test: the share of the requests that it gets."""
    why: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """How a request is routed, with all that there was to choose from."""

    asked: str
    strategy: str
    chosen: str | None
    """``<id>@<version>``. None: it would be drawn; or nobody can answer."""
    candidates: tuple[Candidate, ...]
    """The best first."""
    refused: tuple[Refusal, ...]
    fallbacks: tuple[str, ...]
    """Who would be asked after that, one after the other: ``<id>@<version>``."""
    variant: str = ""
    """Of the route's A/B test, for which it is meant, whether that can answer or not. Empty: it would be drawn; or
    there is no test."""
    error: str = ""
    """What the client is told where nobody can answer."""


class Decision(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Who answers. What else there was to choose from is told by :meth:`routing.router.Router.explain`, when asked."""

    asked: str
    """The route or model that the request named; what it left out is filled in."""
    strategy: str
    """A :class:`routing.config.Strategy`; ``named`` where the request left no choice."""
    version: Version
    candidates: int = 1
    """Of which it was chosen. 0: there was none, and one that stands in for them was taken."""
    test: Split | None = None
    """The route's A/B test. None: there is none."""
    variant: Variant | None = None
    """Of the test, which was drawn; the other one answers where it can't."""
    copied: bool = False
    """The test's variant B is to get a copy of the request, whose answer is dropped."""
    microseconds: float = 0.0
    """What the decision took; 0 where the caller measures nothing."""

    @property
    def pinned(self) -> bool:
        """The request named a version: no other may answer."""
        return "@" in self.asked

    @property
    def named(self) -> bool:
        """The request named its model."""
        return self.strategy == NAMED
