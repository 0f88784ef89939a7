"""Log lines: one JSON object each, whoever writes them."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from nopenai_site import logs


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.BytesIO]:
    """What a process that was configured with level INFO writes; the configuration before is put back."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    captured = io.BytesIO()
    logs.configure("INFO", stream=captured)
    yield captured
    root.handlers, root.level = handlers, level
    logging.captureWarnings(False)
    structlog.reset_defaults()


def _lines(stream: io.BytesIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_has_the_promised_fields_first_and_then_its_own(stream: io.BytesIO) -> None:
    structlog.get_logger(module="model_registry").info("Model discovered: phi-4", model_id="phi-4")
    (line,) = _lines(stream)
    assert list(line) == ["timestamp", "level", "module", "message", "model_id"]
    assert line["module"] == "model_registry"
    assert line["message"] == "Model discovered: phi-4"
    assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize(
    ("method", "level"), [("info", "INFO"), ("warning", "WARN"), ("error", "ERROR"), ("critical", "FATAL")]
)
def test_levels_have_the_words_of_the_contract(stream: io.BytesIO, method: str, level: str) -> None:
    getattr(structlog.get_logger(module="up"), method)("x")
    getattr(logging.getLogger("django.request"), method)("x")
    assert [line["level"] for line in _lines(stream)] == [level, level]


def test_what_is_below_the_level_is_not_written(stream: io.BytesIO) -> None:
    structlog.get_logger(module="up").debug("x")
    logging.getLogger("django").debug("x")
    assert _lines(stream) == []


def test_the_standard_librarys_loggers_are_filed_under_their_package(stream: io.BytesIO) -> None:
    logging.getLogger("django.request").warning("Not Found: %s", "/x")
    (line,) = _lines(stream)
    assert (line["module"], line["message"]) == ("django", "Not Found: /x")


def test_an_exception_stays_in_its_line(stream: io.BytesIO) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger(module="up").exception("It failed")
        logging.getLogger("celery").exception("It failed")
    for line in _lines(stream):
        assert line["exception"].startswith("Traceback")
        assert line["exception"].endswith("ValueError: broken")


def test_context_such_as_the_request_id_is_in_every_line(stream: io.BytesIO) -> None:
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        structlog.get_logger(module="gateway").info("x")
        logging.getLogger("django").warning("x")
    assert [line["request_id"] for line in _lines(stream)] == ["r-1", "r-1"]


def test_values_that_json_does_not_know_are_written_as_text(stream: io.BytesIO) -> None:
    structlog.get_logger(module="up").info("x", fault=OSError("no"), arabic="سلام")
    (line,) = _lines(stream)
    assert (line["fault"], line["arabic"]) == ("no", "سلام")


def test_a_name_that_is_not_utf8_does_not_fail_the_call(stream: io.BytesIO) -> None:
    structlog.get_logger(module="discovery").info("x", path="caf\udce9.gguf")
    (line,) = _lines(stream)
    assert line["path"] == "caf\udce9.gguf"


def test_a_key_never_reaches_the_log() -> None:
    key = "nok_" + "a1B2_-" * 7 + "c"
    written = logs.line("INFO", "m", f"Refused {key}", {"path": f"/v1/models/{key}?k={key}", "prefix": "nok_a1B2_-a1"})
    assert key.encode() not in written
    assert written.count(b"nok_a1B2_-a1") == 4
