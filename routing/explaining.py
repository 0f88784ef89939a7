"""What is told of a decision that is not made: who there is to choose from, with scores and reasons in words. Pure, and
O(candidates): made when somebody asks."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from registry.catalogue import Version
from routing.ask import Ask
from routing.decision import Candidate, Refusal
from routing.experiments.assignment import Variant
from routing.experiments.split import Split
from routing.strategies import Strategy
from routing.targets import Target


class Foretold(NamedTuple):
    """How a request would be routed."""

    version: Version | None
    """None: it would be drawn; or nobody can answer."""
    candidates: tuple[Candidate, ...] = ()
    """The best first."""
    variant: Variant | None = None
    """Of the A/B test that decides. None: it would be drawn; or there is no test."""
    outsiders: tuple[str, ...] = ()
    """Models that would be candidates, were it not for the test."""
    error: str = ""

    def refused(self, refusals: Iterable[Refusal]) -> tuple[Refusal, ...]:
        """``refusals``: of those that are no candidates of the strategy."""
        chosen = {candidate.model for candidate in self.candidates}
        outside = (Refusal(model, "is no variant of the A/B test") for model in self.outsiders)
        return (*(each for each in refusals if each.model not in chosen), *outside)


def by_strategy(strategy: Strategy, ask: Ask) -> Foretold:
    target = strategy.would_choose(ask)
    scored = sorted(((strategy.scored(each, ask), each) for each in strategy.pool), key=lambda each: -each[0].score)
    candidates = tuple(_candidate(each, score.score, score.why) for score, each in scored)
    return Foretold(None if target is None else target.version, candidates)


def by_test(test: Split, strategy: Strategy, ask: Ask) -> Foretold:
    """``strategy``: the one that decides where neither variant can answer; else it has no say."""
    able = dict(_able(test))
    if not able:
        return by_strategy(strategy, ask)
    variant = test.foretell(ask)
    target = test.answering(variant or "A") if variant or len(able) == 1 else None
    scored = sorted((_share(test, each) for each in able), key=lambda each: -each[0])
    models = {each.version.model for each in able.values()}
    return Foretold(
        None if target is None else target.version,
        tuple(_candidate(able[each], share, why) for share, each, why in scored),
        variant,
        tuple(each.version.model for each in strategy.pool if each.version.model not in models),
    )


def _able(test: Split) -> Iterator[tuple[Variant, Target]]:
    if test.a is not None:
        yield "A", test.a
    if test.b is not None:
        yield "B", test.b


def _share(test: Split, variant: Variant) -> tuple[float, Variant, str]:
    """Of the requests, and the same in words."""
    if test.a is None or test.b is None:
        return 1.0, variant, f"variant {variant} of the A/B test, and the other one can't answer"
    if variant == "B" and test.copies:
        return 0.0, variant, f"variant B of the A/B test, which gets copies of {test.copies:.1%} of the requests"
    share = test.share_of_a if variant == "A" else 1.0 - test.share_of_a
    return share, variant, f"variant {variant} of the A/B test, which gets {share:.1%} of the requests"


def _candidate(target: Target, score: float, why: str) -> Candidate:
    return Candidate(model=target.version.model, version=target.version.version, score=score, why=why)
