"""What routing does at the moment, as the admin shows it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from registry.errors import Unavailable
from registry.gateways import gateway_get

_MOST_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """An A/B test's results."""

    name: str
    rows: list[tuple[str, list[str]]]
    """A variant, and its numbers as :data:`COLUMNS` name them."""
    words: str
    """The verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    fault: str = ""
    """Why nothing is known."""
    figures: tuple[tuple[str, str], ...] = ()
    tests: tuple[Test, ...] = ()
    decisions: tuple[dict[str, Any], ...] = ()
    """A sample, the newest first, as :class:`inference.gateway.samples.Sample` has them; ``at`` as a datetime."""


COLUMNS = ("requests", "errors", "fell to the other", "first token, mean", "p95", "tokens/s")


def live(user: str) -> Live:
    """``user``: who is signed in."""
    try:
        report = gateway_get("/metrics/routing?detailed=true", user=user)
    except Unavailable as fault:
        return Live(fault=fault.message)
    return Live(
        figures=tuple(_figures(report)),
        tests=tuple(_test(name, test) for name, test in report["ab_tests"].items()),
        decisions=tuple(
            {**sample, "at": datetime.fromtimestamp(sample["at"], UTC)} for sample in report["sample"][:_MOST_SHOWN]
        ),
    )


def _figures(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "Decisions", f"{report['total_routes']:,}"
    yield "Requests that named their model", f"{report['named_requests']:,}"
    yield "Answered by another one", f"{report['fallback_routes']:,}"
    yield "Answered by none", f"{report['failed_routes']:,}"
    timing = report["routing_time_us"]
    yield "A decision takes", f"{_number(timing['p50'])} µs, p99 {_number(timing['p99'])} µs"


def _test(name: str, test: Mapping[str, Any]) -> Test:
    return Test(
        name=f"{name}: {test['split']}",
        rows=[(variant.upper(), list(_variant(test[variant]))) for variant in ("a", "b")],
        words=test["verdict"]["words"],
    )


def _variant(counts: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{counts[name]:,}" for name in ("requests", "errors", "unavailable"))
    yield _seconds(counts["mean_first_token_seconds"])
    quantiles = counts["first_token_seconds"] or {}
    yield _seconds(quantiles.get("p95"))
    yield _number(counts["tokens_per_second"])


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value * 1000:,.0f} ms"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}"
