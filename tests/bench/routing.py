"""What a decision costs, in this process: each strategy with few and many models, telemetry changing all the while."""

import random
import statistics
import time
from collections.abc import Callable

from registry.catalogue import Catalogue
from routing.ask import Ask
from routing.config import Routing, Strategy
from routing.router import Router
from routing.table import RouteTable
from routing.targets import Target, Targets
from tests.catalogue import a_model

MODELS = (2, 100, 10_000)
DECISIONS = 30_000
SESSIONS = 64


def measure() -> str:
    rows = []
    for strategy in Strategy:
        medians, tails = zip(*(_nanoseconds(strategy, models) for models in MODELS), strict=True)
        shown = " | ".join(f"{median:.0f} / {tail:.0f}" for median, tail in zip(medians, tails, strict=True))
        rows.append(f"| `{strategy.value}` | {shown} | {medians[-1] / medians[0]:.2f} |")
    head = " | ".join(f"{models:,} models" for models in MODELS)
    return "\n".join(
        [
            f"| strategy: ns per decision, median / p99 | {head} | × |",
            "| --- | ---: | ---: | ---: | ---: |",
            *rows,
            "\nOne decision is a request's name in, and the version that is to answer out; between two, telemetry "
            "changes: work begins and ends, latencies come in. × is the most models' median by the fewest's. Bars: "
            "median ≤ 1,000, p99 ≤ 3,200, × ≤ 1.5.",
        ]
    )


def _nanoseconds(strategy: Strategy, models: int) -> tuple[float, float]:
    """Median and 99th percentile of one decision, less what taking the time takes."""
    draw, clock = random.Random(7), time.perf_counter_ns
    router, targets = _router(strategy, models, draw)
    asks = [Ask(model="auto", session=f"s{each}", links=(b"%016d" % each,), now=1.0) for each in range(SESSIONS)]
    for ask in asks:
        router.route(ask)
    took = []
    for number in range(DECISIONS):
        ask = asks[number % SESSIONS]
        began = clock()
        decision = router.route(ask)
        took.append(clock() - began)
        _disturb(targets, router.targets.of(decision.version), draw)
    overhead = statistics.median(_empty(clock) for _ in range(2000))
    took.sort()
    return took[len(took) // 2] - overhead, took[len(took) * 99 // 100] - overhead


def _empty(clock: Callable[[], int]) -> int:
    began = clock()
    return clock() - began


def _router(strategy: Strategy, models: int, draw: random.Random) -> tuple[Router, list[Target]]:
    catalogue = {f"m{pk}": a_model(f"m{pk}", pk) for pk in range(models)}
    known = Targets()
    table = RouteTable(Catalogue(revision=1, models=catalogue, default=None), {}, known)
    targets = [known.of(model.promoted) for model in catalogue.values() if model.promoted is not None]
    for target in targets:
        target.says(warm=True, lanes=16, told=0, cells=0.0)
        target.answered(draw.uniform(0.05, 2.0))
        target.caches(draw.random())
        target.limited(used=draw.random(), late=False, exhausted=False)
    return Router(table, known, Routing(strategy=strategy), draw.random), targets


def _disturb(targets: list[Target], chosen: Target, draw: random.Random) -> None:
    """The chosen one has more work, and some other one less; now and then something else is told."""
    chosen.began()
    other = draw.choice(targets)
    if other.work:
        other.ended()
    kind = draw.randrange(8)
    if kind == 0:
        chosen.answered(draw.uniform(0.05, 2.0))
    elif kind == 1:
        other.caches(draw.random())
    elif kind == 2:
        other.limited(used=draw.random(), late=False, exhausted=False)
