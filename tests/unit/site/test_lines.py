"""What children print becomes lines of one log."""

import json
from typing import Any

import pytest

from nopenai_site import logs
from nopenai_site.up import lines


def _shaped(raw: str, wrap: lines.Wrap = lines.plain, lowest: str = "DEBUG") -> dict[str, Any] | None:
    shaped = lines.as_log_line(raw.encode(), module="child", wrap=wrap, lowest=lowest)
    return None if shaped is None else json.loads(shaped)


def test_a_line_of_our_log_passes_unchanged() -> None:
    ours = logs.line("INFO", "gateway", "Routed request to model", {"model_id": "phi-4"})
    assert lines.as_log_line(ours, module="gateway", wrap=lines.plain, lowest="INFO") is ours


def test_an_engines_line_keeps_its_fields_and_its_time_in_our_order() -> None:
    line = _shaped(
        '{"module": "engine", "level": "INFO", "timestamp": "2026-01-19T08:00:00Z", "message": "ok", "n": 1}'
    )
    assert line is not None
    assert list(line) == ["timestamp", "level", "module", "message", "n"]
    assert (line["timestamp"], line["module"], line["n"]) == ("2026-01-19T08:00:00Z", "engine", 1)


@pytest.mark.parametrize("raw", ["Segmentation fault", '{"broken":', '{"level": "INFO"}', "[1]", '{"message": 1}'])
def test_anything_else_is_wrapped_with_the_childs_name(raw: str) -> None:
    line = _shaped(raw)
    assert line is not None
    assert (line["level"], line["module"], line["message"]) == ("WARN", "child", raw)


def test_bytes_that_are_no_text_are_kept_readable() -> None:
    shaped = lines.as_log_line(b"\xff\xfe broken", module="child", wrap=lines.plain, lowest="INFO")
    assert json.loads(shaped or b"")["message"].endswith(" broken")


def test_empty_lines_and_lines_below_the_level_are_dropped() -> None:
    assert _shaped("   ") is None
    assert _shaped('{"level": "DEBUG", "message": "x"}', lowest="INFO") is None
    assert _shaped("LOG:  checkpoint", lines.postgres, lowest="WARN") is None


@pytest.mark.parametrize(
    ("raw", "level", "message"),
    [
        ("LOG:  database system is ready", "INFO", "database system is ready"),
        ("WARNING:  there is no transaction in progress", "WARN", "there is no transaction in progress"),
        ("FATAL:  role x does not exist", "ERROR", "role x does not exist"),
        ("PANIC:  could not write", "FATAL", "could not write"),
        ("\tan unindented continuation", "INFO", "\tan unindented continuation"),
    ],
)
def test_postgres_severities_become_our_levels(raw: str, level: str, message: str) -> None:
    assert lines.postgres(raw) == (level, message)


@pytest.mark.parametrize(
    ("raw", "level", "message"),
    [
        ("13189:M 22 Nov 2026 15:48:40.881 * Ready to accept connections", "INFO", "Ready to accept connections"),
        ("13189:M 22 Nov 2026 15:48:40.881 . 1 clients connected", "DEBUG", "1 clients connected"),
        (
            "13189:M 22 Nov 2026 15:48:40.881 # Out Of Memory allocating 1 bytes!",
            "WARN",
            "Out Of Memory allocating 1 bytes!",
        ),
        ("1:C 22 Nov 2026 15:48:40.881 # oO0OoO0OoO0Oo Redis is starting", "DEBUG", "oO0OoO0OoO0Oo Redis is starting"),
        ("1:M 22 Nov 2026 15:48:40.881 # WARNING Memory overcommit must", "DEBUG", "WARNING Memory overcommit must"),
        ("1:M 22 Nov 2026 15:48:40.881 # User requested shutdown...", "INFO", "User requested shutdown..."),
        ("1:signal-handler (1795374666) Received SIGTERM scheduling", "INFO", "Received SIGTERM scheduling"),
        ("something else", "INFO", "something else"),
    ],
)
def test_redis_marks_become_our_levels(raw: str, level: str, message: str) -> None:
    assert lines.redis(raw) == (level, message)


def test_celery_stops_without_a_warning() -> None:
    assert lines.celery("worker: Warm shutdown (MainProcess)")[0] == "INFO"
    assert lines.celery("Segmentation fault")[0] == "WARN"


def test_a_traceback_is_one_record_and_what_is_around_it_is_not_touched() -> None:
    tracebacks = lines.Tracebacks("celery")
    printed = [
        b"starting",
        b"Traceback (most recent call last):",
        b'  File "x.py", line 1, in <module>',
        b"    import packaging",
        b"ModuleNotFoundError: No module named 'packaging'",
        b"ended",
    ]
    first, *waiting, whole, last = [tracebacks.feed(raw) for raw in printed]
    assert (first, waiting, last) == (b"starting", [None, None, None], b"ended")
    record = json.loads(whole or b"")
    assert (record["level"], record["module"]) == ("ERROR", "celery")
    assert record["message"] == "ModuleNotFoundError: No module named 'packaging'"
    assert record["exception"].encode() == b"\n".join(printed[1:5])
    assert tracebacks.end() is None


def test_a_traceback_without_an_end_is_not_lost() -> None:
    tracebacks = lines.Tracebacks("celery")
    assert tracebacks.feed(b"Traceback (most recent call last):") is None
    assert b"Traceback" in (tracebacks.end() or b"")
