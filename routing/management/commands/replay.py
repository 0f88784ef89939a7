"""``manage.py replay``: which routing strategy would have done best by the requests that were recorded."""

import math
from argparse import ArgumentTypeError
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from routing.config import Strategy
from routing.replay.comparison import TooFew, compare
from routing.replay.records import BadRecording, Recording, Wanted, recording_of
from routing.replay.trace import trace_of
from routing.replay.verdict import LEAST_REQUESTS, By, Comparison, Result, interval, seconds_shown

MOST_REQUESTS = 20_000
_PATTERN = "*.jsonl"


class Command(BaseCommand):
    help = (
        "Route recorded requests again by each strategy, to simulated models as quick as yours were recorded to be, "
        "and say which one would have done best. With NOPENAI_RECORD_ARRIVALS=1 the server records them, without text."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "paths", nargs="*", type=Path, metavar="PATH", help="files or directories; the server's own if absent"
        )
        parser.add_argument("--route", help="judge only its requests, and change only its strategy")
        parser.add_argument("--strategies", type=_strategies, default=tuple(Strategy), help="some, with commas between")
        parser.add_argument("--by", choices=[each.value for each in By], default=By.FIRST_TOKEN.value)
        parser.add_argument("--since", type=_moment, help="2026-05-01T08:00, in the server's time zone")
        parser.add_argument("--until", type=_moment)
        parser.add_argument(
            "--most", type=_count, default=MOST_REQUESTS, help=f"the newest so many requests ({MOST_REQUESTS:,})"
        )
        parser.add_argument("--seed", type=int, default=0, help="of all that is drawn; the same gives the same")
        parser.add_argument("--json", action="store_true", help="all numbers, for programs")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            recording = _read(_files(options["paths"]), _wanted(options))
            trace = trace_of(recording, options["route"])
            comparison = compare(trace, options["strategies"], By(options["by"]), options["seed"])
        except (BadRecording, TooFew) as fault:
            raise CommandError(str(fault)) from fault
        except OSError as fault:
            raise CommandError(f"{fault.filename} can't be read: {fault.strerror}.") from fault
        if options["json"]:
            self.stdout.write(msgspec.json.encode(comparison).decode())
        else:
            self._show(recording, comparison)

    def _show(self, recording: Recording, comparison: Comparison) -> None:
        first = datetime.fromtimestamp(recording.arrivals[0].at, UTC).isoformat(timespec="seconds")
        self.stdout.write(f"{comparison.requests:,} requests in {_span(comparison.seconds)}, since {first}")
        for line in _notes(recording, comparison):
            self.stdout.write(line)
        self.stdout.write("")
        rows = [_HEAD, *(_row(result) for result in comparison.results)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            self.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        self.stdout.write(f"\n{comparison.verdict}")


_HEAD = (
    "strategy",
    "ttft, mean (95 %)",
    "p50",
    "p95",
    "p99",
    "whole answer, mean",
    "p95",
    "hit rate",
    "failed",
    "shares",
)


def _row(result: Result) -> tuple[str, ...]:
    first, total = result.first_token, result.total
    shares = sorted(result.shares.items(), key=lambda each: -each[1])
    return (
        result.strategy.value + (" *" if result.in_force else ""),
        interval(first.mean),
        *map(seconds_shown, (first.p50, first.p95, first.p99)),
        interval(total.mean),
        seconds_shown(total.p95),
        f"{result.hit_rate:.1%}",
        f"{result.failed:.1%}",
        ", ".join(f"{model} {share:.0%}" for model, share in shares),
    )


def _notes(recording: Recording, comparison: Comparison) -> Iterator[str]:
    if comparison.left_out:
        yield f"{comparison.left_out:,} more are left out: not answered, or by a model of which too little is known"
    if comparison.unknown_models:
        names = ", ".join(f"{model} ({count})" for model, count in sorted(comparison.unknown_models.items()))
        yield f"Too few answers to know how quick they are, so no candidates here: {names}"
    if recording.damaged:
        yield f"{recording.damaged:,} lines can't be read, and are left out"
    yield (
        f"Mean time to first token as recorded: {seconds_shown(comparison.recorded_first_token)}; of the same requests "
        f"on the same models, simulated: {seconds_shown(comparison.simulated_first_token)}"
    )
    yield "* is in force"


def _files(paths: Sequence[Path]) -> list[Path]:
    """Raises BadRecording: there is none."""
    found = []
    for path in paths or [settings.NOPENAI.arrivals_dir]:
        if not path.is_dir():
            found.append(path)
        elif own := sorted(path.glob(_PATTERN)):
            found += own
        else:
            raise BadRecording(f"There is no recording in {path}. {_HOW}")
    if not paths and not settings.NOPENAI.arrivals_dir.is_dir():
        raise BadRecording(f"Nothing was recorded in {settings.NOPENAI.arrivals_dir}. {_HOW}")
    return found


_HOW = f"Start the server with NOPENAI_RECORD_ARRIVALS=1 and let it answer {LEAST_REQUESTS} requests or more."


def _read(paths: Sequence[Path], wanted: Wanted) -> Recording:
    with ExitStack() as stack:
        return recording_of({str(path): stack.enter_context(path.open("rb")) for path in paths}, wanted)


def _wanted(options: Mapping[str, Any]) -> Wanted:
    since, until = options["since"], options["until"]
    return Wanted(
        since=-math.inf if since is None else since,
        until=math.inf if until is None else until,
        most=options["most"],
    )


def _span(seconds: float) -> str:
    for unit, name in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} seconds"


def _strategies(raw: str) -> tuple[Strategy, ...]:
    names = list(dict.fromkeys(name.strip() for name in raw.split(",") if name.strip()))
    known = [each.value for each in Strategy]
    if not names or not set(names) <= set(known):
        wrong = ", ".join(name for name in names if name not in known) or "nothing"
        raise ArgumentTypeError(f"{wrong}: use some of {', '.join(known)}")
    return tuple(Strategy(name) for name in names)


def _moment(raw: str) -> float:
    """Seconds since the epoch."""
    try:
        moment = parse_datetime(raw)
        if moment is None and (day := parse_date(raw)) is not None:
            moment = datetime(day.year, day.month, day.day)  # noqa: DTZ001 - the zone is the server's, set below
    except ValueError:
        moment = None
    if moment is None:
        raise ArgumentTypeError(f"{raw!r}: use a time such as 2026-05-01T08:00, or a day")
    return (timezone.make_aware(moment) if timezone.is_naive(moment) else moment).timestamp()


def _count(raw: str) -> int:
    if not raw.isascii() or not raw.isdigit() or not int(raw):
        raise ArgumentTypeError(f"{raw!r}: use a whole number from 1")
    return int(raw)
