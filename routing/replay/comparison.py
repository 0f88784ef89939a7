"""All strategies on the same arrivals, side by side, and what may be concluded."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from routing.config import AUTO, Strategy
from routing.replay.bootstrap import Blocks
from routing.replay.simulation import Fate, simulate
from routing.replay.trace import Trace
from routing.replay.verdict import By, Comparison, Result, Times, verdict

DRAWN = (Strategy.RANDOM, Strategy.WEIGHTED_RANDOM)
SEEDS = 5
"""Strategies that draw are simulated so often; each request counts with its mean."""

ALPHA = 0.05


class TooFew(ValueError):
    """Nothing can be compared; ``str()`` is meant for the operator."""


class _Run(msgspec.Struct, frozen=True):
    """Of one strategy, all seeds together; None where nobody could answer."""

    first_token: Sequence[float | None]
    total: Sequence[float | None]
    fates: Sequence[Fate | None]
    """Of all seeds."""


def compare(
    trace: Trace, strategies: Sequence[Strategy] = tuple(Strategy), by: By = By.FIRST_TOKEN, seed: int = 0
) -> Comparison:
    """
    Raises:
        TooFew: no request can be judged.
    """
    judged = [job.number for job in trace.jobs if job.counts]
    if not judged:
        raise TooFew(_nothing(trace))
    runs = {strategy: _run(trace, strategy, judged, seed) for strategy in strategies}
    common = [place for place in range(len(judged)) if all(run.first_token[place] is not None for run in runs.values())]
    if not common:
        raise TooFew("Under some of the strategies nobody could have answered any of the requests.")
    blocks = Blocks(len(common), seed)
    recorded, simulated = _fidelity(trace, judged, seed)
    comparison = Comparison(
        requests=len(common),
        left_out=trace.left_out,
        unknown_models=trace.fitted.unknown,
        seconds=trace.jobs[judged[-1]].arrival.at - trace.jobs[judged[0]].arrival.at,
        block=blocks.length,
        by=by,
        recorded_first_token=recorded,
        simulated_first_token=simulated,
        results=_results(trace, runs, judged, common, blocks, by),
        verdict="",
    )
    return msgspec.structs.replace(comparison, verdict=verdict(comparison))


def _results(
    trace: Trace,
    runs: Mapping[Strategy, "_Run"],
    judged: Sequence[int],
    common: Sequence[int],
    blocks: Blocks,
    by: By,
) -> tuple[Result, ...]:
    """The best first.

    Args:
        judged: numbers of jobs.
        common: places among them that all runs have answered.
    """
    times = {each: (_of(run.first_token, common), _of(run.total, common)) for each, run in runs.items()}
    deciding = {each: times[each][by is By.TOTAL] for each in runs}
    best = min(runs, key=lambda each: statistics.fmean(deciding[each]))
    alpha = ALPHA / max(1, len(runs) - 1)  # Bonferroni: all are to be right at once
    in_force = trace.routing.all_rules().get(trace.route or AUTO, trace.routing).strategy
    results = []
    for strategy, run in runs.items():
        first_token, total = times[strategy]
        differences = [own - least for own, least in zip(deciding[strategy], deciding[best], strict=True)]
        slower = blocks.estimate(differences, alpha)
        results.append(
            Result(
                strategy=strategy,
                in_force=strategy is in_force,
                first_token=_times(first_token, blocks),
                total=_times(total, blocks),
                hit_rate=_hit_rate(trace, judged, run.fates),
                shares=_shares(run.fates),
                failed=_failed(trace, run.fates),
                slower=slower,
                distinguishable=slower.low > 0,
            )
        )
    return tuple(sorted(results, key=lambda each: each.slower.mean))


def _run(trace: Trace, strategy: Strategy, judged: Sequence[int], seed: int) -> _Run:
    seeds = range(seed, seed + SEEDS) if strategy in DRAWN else (seed,)
    simulated = [simulate(trace, strategy, each) for each in seeds]
    runs = [[fates[number] for number in judged] for fates in simulated]
    return _Run(
        first_token=[_mean([fate and fate.first_token for fate in fates]) for fates in zip(*runs, strict=True)],
        total=[_mean([fate and fate.total for fate in fates]) for fates in zip(*runs, strict=True)],
        fates=[fate for run in runs for fate in run],
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """None where any is."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if len(known) == len(values) else None


def _of(values: Sequence[float | None], places: Sequence[int]) -> list[float]:
    return [value for place in places if (value := values[place]) is not None]


def _times(values: Sequence[float], blocks: Blocks) -> Times:
    ranked = sorted(values)
    p50, p95, p99 = (ranked[min(len(ranked) - 1, int(share * len(ranked)))] for share in (0.5, 0.95, 0.99))
    return Times(mean=blocks.estimate(values, ALPHA), p50=p50, p95=p95, p99=p99)


def _hit_rate(trace: Trace, judged: Sequence[int], fates: Sequence[Fate | None]) -> float:
    """``fates``: of all judged jobs, once or several times."""
    prompt = cached = 0
    for place, fate in enumerate(fates):
        if fate is not None:
            prompt += trace.jobs[judged[place % len(judged)]].arrival.prompt_tokens
            cached += fate.cached
    return cached / prompt if prompt else 0.0


def _shares(fates: Sequence[Fate | None]) -> dict[str, float]:
    counts = Counter(fate.model for fate in fates if fate is not None)
    return {model: count / counts.total() for model, count in sorted(counts.items())}


def _failed(trace: Trace, fates: Sequence[Fate | None]) -> float:
    services = trace.fitted.services
    return math.fsum(1.0 if fate is None else services[fate.model].failed for fate in fates) / len(fates)


def _fidelity(trace: Trace, judged: Sequence[int], seed: int) -> tuple[float, float]:
    fates = simulate(trace, None, seed)
    simulated = [fate.first_token for number in judged if (fate := fates[number]) is not None]
    recorded = [trace.jobs[number].arrival.first_token_seconds for number in judged]
    return statistics.fmean(recorded), statistics.fmean(simulated)


def _nothing(trace: Trace) -> str:
    unknown = trace.fitted.unknown
    if trace.jobs and trace.route is not None:
        return f"No request of the route '{trace.route}' can be judged. There are requests of: {_routes(trace)}."
    if trace.jobs:
        return "All these requests named their model: no strategy had a choice."
    if unknown:
        few = ", ".join(f"{model} ({answers})" for model, answers in sorted(unknown.items()))
        return f"No model has answered enough requests to know how quick it is: {few}. Record for longer."
    return "The recording does not say which models were ready: it was stopped within its first second, or cut."


def _routes(trace: Trace) -> str:
    return ", ".join(sorted({job.arrival.route for job in trace.jobs if not job.arrival.named})) or "none"
