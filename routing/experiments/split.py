"""An A/B test as the router has it: who gets a request."""

from collections.abc import Callable, Mapping

import msgspec

from routing.ask import Ask
from routing.config import Routing, Rules, StickyBy
from routing.experiments.assignment import Variant, drawn, variant
from routing.targets import Target


class Split(msgspec.Struct, frozen=True):
    """An A/B test of one route, as it is now."""

    name: str
    words: str
    """How it divides requests: what is counted under different ones is never added up."""
    share_of_a: float
    copies: float
    """The share of requests that A answers and B gets a copy of."""
    sticky_by: StickyBy
    a: Target | None
    """None: it can't answer."""
    b: Target | None

    @classmethod
    def of(cls, route: str, rules: Rules, able: Mapping[str, Target]) -> "Split":
        """``able``: by their models' ids."""
        a, b = rules.ab_test_model_a or "", rules.ab_test_model_b or ""
        split, mirror = rules.ab_test_split, rules.ab_test_mirror
        share, copies = (1.0, 1.0 - split) if mirror else (split, 0.0)
        return cls(
            test_of(route, rules), split_words(rules), share, copies, rules.ab_test_sticky_by, able.get(a), able.get(b)
        )

    def sticky(self, ask: Ask) -> str:
        """By which its requests keep to their variant; empty: it is drawn for this one alone."""
        return ask.session if self.sticky_by is StickyBy.SESSION else ask.key

    def draw(self, ask: Ask, random: Callable[[], float]) -> Variant:
        sticky = self.sticky(ask)
        return variant(sticky, self.name, self.share_of_a) if sticky else drawn(random(), self.share_of_a)

    def foretell(self, ask: Ask) -> Variant | None:
        """What :meth:`draw` will give, whatever is drawn. None: that depends."""
        if self.sticky(ask):
            return self.draw(ask, lambda: 0.0)
        if self.share_of_a in (0.0, 1.0):
            return drawn(0.0, self.share_of_a)
        return None

    @property
    def answer(self) -> tuple[Target, ...]:
        """Both variants, or the one that can answer and is given requests: a B that gets copies only, or that was
        rolled back, is not."""
        shares = ((self.a, self.share_of_a), (self.b, 1.0 - self.share_of_a))
        return tuple(target for target, share in shares if target is not None and share > 0.0)

    def answering(self, variant: Variant) -> Target | None:
        """That variant, or the other one where it can't. None: neither can."""
        return (self.a or self.b) if variant == "A" else (self.b or self.a)


def shares_of_b(routing: Routing) -> dict[str, float]:
    """Of the requests, 0–1, by the name of each A/B test that is on. Copies are none."""
    return {
        test_of(route, rules): 0.0 if rules.ab_test_mirror else round(1.0 - rules.ab_test_split, 9)
        for route, rules in routing.all_rules().items()
        if rules.ab_test_enabled
    }


def test_of(route: str, rules: Rules) -> str:
    """The name of its A/B test."""
    return f"{route}: {rules.ab_test_model_a or ''} / {rules.ab_test_model_b or ''}"


def splits_in_force(routing: Routing) -> dict[str, str]:
    """In words, by the name of each A/B test that is on."""
    return {
        test_of(route, rules): split_words(rules)
        for route, rules in routing.all_rules().items()
        if rules.ab_test_enabled
    }


def split_words(rules: Rules) -> str:
    share = f"{round((1.0 - rules.ab_test_split) * 100, 7):g} %"
    return f"B gets copies of {share} of the requests" if rules.ab_test_mirror else f"B gets {share} of the requests"
