"""The record of one routing decision, and of why a model was not among the candidates."""

import msgspec

from registry.catalogue import Version


class Refusal(msgspec.Struct, frozen=True):
    """Why a model is no candidate, in words that follow the model's name."""

    model: str
    reason: str
    lacks: bool = False
    """The model is sound, and can't do what is asked."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers, out of whom. ``candidates`` is shared with the route table, so that a decision costs no copy."""

    asked: str
    """The route or model that the request named; what it left out is filled in."""
    strategy: str
    """``named`` where the request left no choice."""
    candidates: tuple[Version, ...]
    index: int
    """Of the chosen candidate."""
    microseconds: float = 0.0
    """What the decision took; 0 where the caller measures nothing."""

    @property
    def version(self) -> Version:
        return self.candidates[self.index]

    def attempt(self, number: int) -> Version:
        """Who to ask at the ``number``-th attempt (0 = the first): the other candidates in turn, then again from the
        start. A named model has one candidate, so that it fails over to itself only."""
        return self.candidates[(self.index + number) % len(self.candidates)]
