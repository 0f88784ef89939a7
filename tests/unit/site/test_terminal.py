"""Log lines for people."""

import io

from nopenai_site import logs
from nopenai_site.up.terminal import Terminal, render

RECORD = {
    "timestamp": "2026-01-19T08:00:01.250Z",
    "level": "INFO",
    "module": "model_registry",
    "message": "Model discovered: phi-4",
    "model_id": "phi-4",
    "reason": "found on disk",
}


def test_time_level_module_and_message_come_first_and_fields_after() -> None:
    assert render(RECORD, colour=False) == (
        '08:00:01 INFO  model_registry Model discovered: phi-4  model_id=phi-4 reason="found on disk"'
    )


def test_a_traceback_has_lines_of_its_own() -> None:
    text = render({**RECORD, "exception": "Traceback\nValueError: x"}, colour=False)
    assert text.splitlines()[1:] == ["    Traceback", "    ValueError: x"]


def test_what_a_client_sent_can_not_drive_the_terminal() -> None:
    text = render({**RECORD, "message": "\x1b[2J", "model_id": "\x1b]0;x\x07\r"}, colour=False)
    assert "\x1b" not in text
    assert "\r" not in text


def test_the_servers_small_talk_is_for_the_file_and_their_warnings_are_not() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream)
    terminal.show(logs.line("INFO", "postgres", "listening on Unix socket"))
    assert stream.getvalue() == ""
    terminal.show(logs.line("ERROR", "postgres", "could not write"))
    assert "could not write" in stream.getvalue()


def test_a_line_that_is_no_json_is_shown_as_it_is() -> None:
    stream = io.StringIO()
    Terminal(stream).show(b"[1, 2")
    assert "[1, 2" in stream.getvalue()
