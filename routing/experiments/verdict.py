"""What an operator may conclude of an A/B test as it stands: in words, and for programs."""

import math
from enum import StrEnum

import msgspec

from routing.experiments.assignment import Variant
from routing.experiments.results import VariantCounts
from routing.experiments.sequential import (
    ALPHA,
    Difference,
    log_difference,
    log_growth,
    rate_difference,
    rate_growth,
)

TOLD_RATE = 0.01
TOLD_RATIO = 1.1
"""The differences for which it is forecast how many requests would tell them: one percentage point, and 10 %."""

_FEW_REQUESTS = 40
"""With fewer of either, only what is told to be sure is worth saying."""


class Metric(StrEnum):
    ERRORS = "errors"
    """The share of requests that a variant failed: errors, and those that the other one had to answer."""
    FIRST_TOKEN = "first_token"
    """The typical (geometric mean) time to first token."""
    TOKENS = "tokens"
    """The typical time for each further token."""


class Outcome(StrEnum):
    """Of B against A."""

    BETTER = "better"
    WORSE = "worse"
    NONE = "none"
    """It can't be told."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    metric: Metric
    outcome: Outcome
    difference: Difference
    """Errors: of the rates. Else of the durations' logarithms: ``exp`` of it is B's by A's. Less is better."""
    more_requests: int | None
    """So many, of both together, would tell :data:`TOLD_RATE` or :data:`TOLD_RATIO`. 0: it would mostly have shown.
    None: the outcome is told, or nobody can say."""
    words: str
    """A sentence."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    findings: tuple[Finding, ...]
    """One of each metric."""
    winner: Variant | None
    """Surely better in something, and surely worse in nothing."""
    words: str


def verdict(a: VariantCounts, b: VariantCounts, alpha: float = ALPHA) -> Verdict:
    """It may be asked for at any time: the chance that anything it ever says to be sure is wrong is at most ``alpha``,
    of which each metric has a third."""
    each = alpha / len(Metric)
    findings = (
        _errors(a, b, each),
        _durations(Metric.FIRST_TOKEN, a, b, each),
        _durations(Metric.TOKENS, a, b, each),
    )
    winner = _winner({finding.outcome for finding in findings})
    return Verdict(findings=findings, winner=winner, words=_words(a, b, findings, winner))


def _winner(outcomes: set[Outcome]) -> Variant | None:
    if (Outcome.BETTER in outcomes) == (Outcome.WORSE in outcomes):
        return None
    return "B" if Outcome.BETTER in outcomes else "A"


def _words(a: VariantCounts, b: VariantCounts, findings: tuple[Finding, ...], winner: Variant | None) -> str:
    told = any(finding.outcome is not Outcome.NONE for finding in findings)
    if not told and min(a.requests, b.requests) < _FEW_REQUESTS:
        asked = f"A was asked {_times(a.requests)}, B {_times(b.requests)}"
        return f"Nothing can be said yet: {asked}; {_FEW_REQUESTS} requests of each are the least."
    if winner:
        headline = f"{winner} is better."
    elif told:
        headline = "Each is better at something: it is for you to weigh."
    else:
        headline = "Neither is surely better yet."
    return " ".join([headline, *(finding.words for finding in findings)])


def _errors(a: VariantCounts, b: VariantCounts, alpha: float) -> Finding:
    difference = rate_difference(a.trials, b.trials, alpha)
    rates = f"B failed {_percent(b.trials.rate)} of its requests, A {_percent(a.trials.rate)}"
    more = None
    if difference.sign:
        least, most = sorted((abs(difference.lower), abs(difference.upper)))
        surely = f"surely between {_points(least)} and {_points(most)} percentage points"
        words = f"B fails {'more' if difference.sign > 0 else 'less'} often than A: {rates} ({surely})."
    else:
        more = _more(rate_growth(a.trials, b.trials, TOLD_RATE, alpha), a, b)
        between = f"{_points(difference.lower, '+')} and {_points(difference.upper, '+')} percentage points"
        forecast = _forecast(more, "1 percentage point")
        words = f"B's error rate can't be told from A's yet: {rates} (surely between {between}); {forecast}."
    return Finding(
        metric=Metric.ERRORS, outcome=_outcome(difference), difference=difference, more_requests=more, words=words
    )


class _Speech(msgspec.Struct, frozen=True):
    """How a duration is spoken of."""

    told: str
    """Around the change and its direction."""
    less: str
    more: str
    untold: str


_SPEECH = {
    Metric.FIRST_TOKEN: _Speech(
        "B's first token comes {} than A's", "sooner", "later", "When the first token comes can't be told apart yet"
    ),
    Metric.TOKENS: _Speech(
        "B's further tokens take {} time than A's",
        "less",
        "more",
        "How long a further token takes can't be told apart yet",
    ),
}


def _durations(metric: Metric, a: VariantCounts, b: VariantCounts, alpha: float) -> Finding:
    first = metric is Metric.FIRST_TOKEN
    logs_a, logs_b = (each.first_token_logs if first else each.token_logs for each in (a, b))
    difference, speech, more = log_difference(logs_a, logs_b, alpha), _SPEECH[metric], None
    if difference.sign:
        words = _told(speech, difference)
    elif math.isinf(difference.upper):
        words = f"{speech.untold}: too few answers."
    else:
        more = _more(log_growth(logs_a, logs_b, math.log(TOLD_RATIO), alpha), a, b)
        between = f"{_change(difference.lower)} {speech.less} and {_change(difference.upper)} {speech.more}"
        words = f"{speech.untold} (B's surely between {between}); {_forecast(more, '10 %')}."
    return Finding(metric=metric, outcome=_outcome(difference), difference=difference, more_requests=more, words=words)


def _told(speech: _Speech, difference: Difference) -> str:
    change = f"{_change(difference.estimate)} {speech.more if difference.sign > 0 else speech.less}"
    least, most = sorted((difference.lower, difference.upper), key=abs)
    return f"{speech.told.format(change)} (surely between {_change(least)} and {_change(most)})."


def _outcome(difference: Difference) -> Outcome:
    return (Outcome.NONE, Outcome.WORSE, Outcome.BETTER)[difference.sign]


def _more(times: float | None, a: VariantCounts, b: VariantCounts) -> int | None:
    return None if times is None else math.ceil((times - 1.0) * (a.requests + b.requests))


def _forecast(more: int | None, difference: str) -> str:
    if more is None:
        return f"far more requests would be needed to tell {difference}"
    if not more:
        return f"a difference of {difference} would mostly have shown"
    return f"some {_rounded(more)} more requests would tell {difference}"


def _rounded(count: int) -> str:
    """Up to two digits: a forecast is no better."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return f"{-(-count // unit) * unit:,}"


def _change(log_ratio: float) -> str:
    """Of a duration, up or down."""
    return f"{abs(math.expm1(min(log_ratio, 700.0))) * 100:,.0f} %"


def _percent(rate: float) -> str:
    return f"{rate * 100:.2g} %" if 0 < rate < 0.01 else f"{rate * 100:.1f} %"


def _points(rate: float, sign: str = "") -> str:
    return f"{rate * 100:{sign}.1f}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times" if count else "never"
