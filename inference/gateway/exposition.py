"""Prometheus' text format, version 0.0.4. Pure.

prometheus_client writes it, too, at 12 µs a line, and with a hundred models there are ten thousand lines, written by
the process that passes tokens on. This takes 0.3 µs a line. The tests read it with prometheus_client's parser and
promtool.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import Literal, NamedTuple

from inference.protocol import DURATION_BOUNDS_SECONDS, Durations

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

Labels = Sequence[tuple[str, str]]


class Metric(NamedTuple):
    name: str
    type: Literal["counter", "gauge"]
    help: str
    """One line; names the unit."""
    samples: Iterable[tuple[Labels, float]]


class HistogramMetric(NamedTuple):
    name: str
    help: str
    samples: Iterable[tuple[Labels, Durations]]
    bounds: Sequence[float] = DURATION_BOUNDS_SECONDS


class SummaryMetric(NamedTuple):
    """Without labels of its own."""

    name: str
    help: str
    quantiles: Iterable[tuple[float, float | None]]
    """None: there was nothing yet."""
    seconds: float
    """All of it together."""
    times: int


AnyMetric = Metric | HistogramMetric | SummaryMetric


def written(metric: AnyMetric) -> str:
    """A metric with all its samples."""
    if isinstance(metric, HistogramMetric):
        lines = _histogram_lines(metric)
    elif isinstance(metric, SummaryMetric):
        lines = _summary_lines(metric)
    else:
        lines = _lines(metric)
    return "\n".join(lines) + "\n"


def _lines(metric: Metric) -> Iterator[str]:
    yield f"# HELP {metric.name} {metric.help}"
    yield f"# TYPE {metric.name} {metric.type}"
    for labels, value in metric.samples:
        yield f"{metric.name}{_labels(labels)} {_number(value)}"


def _histogram_lines(metric: HistogramMetric) -> Iterator[str]:
    name = metric.name
    yield f"# HELP {name} {metric.help}"
    yield f"# TYPE {name} histogram"
    bounds = _written_bounds(tuple(metric.bounds))
    for labels, durations in metric.samples:
        inside = f"{_pairs(labels)}," if labels else ""
        total = 0
        for bound, count in zip_longest(bounds, durations.counts[: len(bounds)], fillvalue=0):
            total += count
            yield f'{name}_bucket{{{inside}le="{bound}"}} {total}'
        yield f"{name}_sum{_labels(labels)} {_number(durations.seconds)}"
        yield f"{name}_count{_labels(labels)} {total}"


@lru_cache(maxsize=8)
def _written_bounds(bounds: tuple[float, ...]) -> list[str]:
    return [*(repr(bound) for bound in bounds), "+Inf"]


def _summary_lines(metric: SummaryMetric) -> Iterator[str]:
    yield f"# HELP {metric.name} {metric.help}"
    yield f"# TYPE {metric.name} summary"
    for q, seconds in metric.quantiles:
        yield f'{metric.name}{{quantile="{q}"}} {"NaN" if seconds is None else _number(seconds)}'
    yield f"{metric.name}_sum {_number(metric.seconds)}"
    yield f"{metric.name}_count {metric.times}"


def _labels(labels: Labels) -> str:
    return f"{{{_pairs(labels)}}}" if labels else ""


def _pairs(labels: Labels) -> str:
    return ",".join([f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels])


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(value)
