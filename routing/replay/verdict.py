"""What was compared, and what may be concluded of it in plain words."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec

from routing.config import Strategy
from routing.replay.bootstrap import Estimate

LEAST_REQUESTS = 400
"""Twenty blocks; with fewer an interval is too narrow for what it says."""

_FAITHFUL = 1.5
"""Simulated times that differ from the recorded ones by more than this factor are warned of."""

_FAILED_MORE = 0.005
"""Whoever is quickest and fails so much more of the requests than another is warned of."""


class By(StrEnum):
    """What the best has least of, on average."""

    FIRST_TOKEN = "ttft"
    TOTAL = "total"


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds since the arrival."""

    mean: Estimate
    p50: float
    p95: float
    p99: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    strategy: Strategy
    in_force: bool
    """It is the one that the route was configured for."""
    first_token: Times
    total: Times
    hit_rate: float
    """Prompt tokens not computed ÷ prompt tokens."""
    shares: Mapping[str, float]
    """Of the requests, by model."""
    failed: float
    """The share of requests that would have failed: nobody could answer, or the model fails so many."""
    slower: Estimate
    """Than the best, of what it is judged by: seconds, paired, with room for all comparisons together."""
    distinguishable: bool
    """From the best."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    requests: int
    """That were judged."""
    left_out: int
    unknown_models: Mapping[str, int]
    seconds: float
    """From the first arrival to the last."""
    block: int
    """Requests of one block of the bootstrap."""
    by: By
    recorded_first_token: float
    """Mean seconds, as they were recorded."""
    simulated_first_token: float
    """The same requests, each simulated on the model that answered it: how faithful the simulation is."""
    results: tuple[Result, ...]
    """The best first."""
    verdict: str


def verdict(comparison: Comparison) -> str:
    """In plain words."""
    if comparison.requests < LEAST_REQUESTS:
        return (
            f"Too short for a verdict: {comparison.requests:,} requests can be judged, and {LEAST_REQUESTS} are the "
            "least. Record for longer."
        )
    best, *others = comparison.results
    if not others:
        return f"{_measured(comparison, best)} under {best.strategy}. Name more strategies to compare it with."
    if len({model for each in comparison.results for model in each.shares}) == 1:
        return "Only one model could answer these requests, so all strategies do the same."
    alike = [each for each in others if not each.distinguishable]
    words = [_headline(comparison, best, alike, others)]
    if best.in_force:
        words.append("It is in force.")
    words += [_in_force(each) for each in others if each.in_force and each.distinguishable]
    if best.failed - min(each.failed for each in others) > _FAILED_MORE:
        least = min(others, key=lambda each: each.failed)
        words.append(f"But {best.failed:.1%} would have failed, and {least.failed:.1%} under {least.strategy}.")
    recorded, simulated = comparison.recorded_first_token, comparison.simulated_first_token
    if not recorded / _FAITHFUL <= simulated <= recorded * _FAITHFUL:
        words.append(
            f"Take it with care: {seconds_shown(recorded)} to the first token were recorded, and the simulation of "
            f"what was in fact done has {seconds_shown(simulated)}."
        )
    return " ".join(words)


def _headline(comparison: Comparison, best: Result, alike: Sequence[Result], others: Sequence[Result]) -> str:
    told = _measured(comparison, best)
    names = _listed([each.strategy for each in alike])
    if len(alike) == len(others):
        return f"No strategy is distinguishable from the best: {best.strategy} had {told[0].lower()}{told[1:]}."
    headline = f"{best.strategy} would have done best: {told[0].lower()}{told[1:]}"
    if not alike:
        return f"{headline}. All others are surely slower."
    return f"{headline}; {names} {'is' if len(alike) == 1 else 'are'} not distinguishable from it."


def _in_force(result: Result) -> str:
    slower = result.slower
    return (
        f"In force is {result.strategy}, which is {seconds_shown(slower.mean)} slower "
        f"({seconds_shown(slower.low)}–{seconds_shown(slower.high)})."
    )


def _measured(comparison: Comparison, result: Result) -> str:
    first = comparison.by is By.FIRST_TOKEN
    mean = (result.first_token if first else result.total).mean
    name = "Time to first token" if first else "Time of a whole answer"
    return f"{name} {interval(mean)}"


def interval(estimate: Estimate) -> str:
    """As ``0.41 s (0.38–0.44)``, all with the digits of the unit that suits the mean."""
    mean, low, high = estimate.mean, estimate.low, estimate.high
    if mean < 0.1:
        return f"{mean * 1000:.3g} ms ({low * 1000:.3g}–{high * 1000:.3g})"
    return f"{mean:.3g} s ({low:.3g}–{high:.3g})"


def seconds_shown(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if abs(seconds) < 0.1 else f"{seconds:.3g} s"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
