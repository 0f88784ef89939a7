"""``manage.py replay``, as an operator calls it."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command

from routing.config import Routing, Strategy
from routing.replay.records import FORMAT, Fleet, Head, Line, encode_line
from routing.replay.verdict import LEAST_REQUESTS
from tests.unit.routing.replay.traces import an_arrival, facts, poisson

NEW_YEAR = 1_767_225_600.0
"""2026, UTC."""


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A directory with what two gateways have recorded: one model is slow, and all have their turn."""
    arrivals = [
        an_arrival(NEW_YEAR + at, model := "ab"[place % 2], slow=8.0 if model == "b" else 1.0)
        for place, at in enumerate(poisson(LEAST_REQUESTS, 0.6))
    ]
    fleet = Fleet(at=NEW_YEAR, models={"a": facts(), "b": facts()}, routing=Routing(strategy=Strategy.ROUND_ROBIN))
    for number in range(2):
        lines: list[Line] = [Head(format=FORMAT), fleet, *arrivals[number::2]]
        (tmp_path / f"arrivals-{number}.jsonl").write_bytes(b"".join(map(encode_line, lines)))
    return tmp_path


def replayed(*arguments: object, **options: Any) -> str:
    output = io.StringIO()
    call_command("replay", *map(str, arguments), stdout=output, **options)
    return output.getvalue()


def test_all_strategies_are_shown_and_a_verdict(recorded: Path) -> None:
    shown = replayed(recorded)
    assert shown.startswith("400 requests in ")
    assert all(f"\n{strategy.value} " in shown for strategy in Strategy)
    assert "round_robin *" in shown
    assert shown.splitlines()[-1].startswith("latency_based would have done best: time to first token ")


def test_programs_get_numbers(recorded: Path) -> None:
    shown = json.loads(replayed(recorded / "arrivals-0.jsonl", recorded / "arrivals-1.jsonl", "--json", "--by=total"))
    best = shown["results"][0]
    assert best["strategy"] == "latency_based" and shown["by"] == "total"
    mean = best["total"]["mean"]
    assert mean["low"] < mean["mean"] < mean["high"]


def test_only_the_strategies_and_the_time_that_are_named_are_looked_at(recorded: Path) -> None:
    options = ("--strategies=random,least_loaded", "--since=2026-01-01T00:00:00Z", "--until=2026-01-01T00:05:00Z")
    shown = json.loads(replayed(recorded, *options, "--json"))
    assert {each["strategy"] for each in shown["results"]} == {"random", "least_loaded"}
    assert 100 < shown["requests"] < 250 and shown["seconds"] < 300
    assert shown["verdict"].startswith("Too short for a verdict")


def test_of_very_many_the_newest_are_looked_at(recorded: Path) -> None:
    assert replayed(recorded, "--most=100").startswith("100 requests")


def test_a_line_that_was_cut_is_told_of(recorded: Path) -> None:
    with (recorded / "arrivals-1.jsonl").open("ab") as file:
        file.write(b'{"is":"request","at":17672')
    assert "\n1 lines can't be read" in replayed(recorded)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["/nowhere/at/all.jsonl"], "/nowhere/at/all.jsonl can't be read: No such file"),
        ([__file__], "is no recording of arrivals"),
        (["--strategies=best"], "best: use some of round_robin, "),
        (["--since=yesterday"], "'yesterday': use a time such as"),
        (["--until=2026-13-01"], "'2026-13-01': use a time such as"),
        (["--most=0"], "'0': use a whole number"),
    ],
)
def test_what_can_not_be_done_is_refused_with_the_reason(arguments: list[str], reason: str) -> None:
    with pytest.raises(CommandError, match=reason):
        replayed(*arguments)


def test_a_time_without_requests_and_a_route_that_nobody_asked_for_are_told(recorded: Path) -> None:
    with pytest.raises(CommandError, match="No request came in that time"):
        replayed(recorded, "--since=2027-01-01")
    with pytest.raises(CommandError, match="There are requests of: auto"):
        replayed(recorded, "--route=drafts")


def test_where_nothing_was_recorded_it_says_how_it_is(tmp_path: Path) -> None:
    for arguments in ([], [tmp_path]):
        with pytest.raises(CommandError, match="Start the server with NOPENAI_RECORD_ARRIVALS=1"):
            replayed(*arguments)
    assert not settings.NOPENAI.record_arrivals
