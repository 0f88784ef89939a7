"""Bodies of unknown length, and the id in the log lines."""

import io
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
import structlog

from nopenai_site.requests import with_body_taken, with_known_length, with_request_id


def seen(**environ: object) -> bytes:
    """What an application finds that believes CONTENT_LENGTH, as Django does."""
    found = b""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        nonlocal found
        found = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        return []

    with_known_length(application, limit_bytes=8)(environ, lambda *_: None)  # type: ignore[arg-type]
    return found


def test_a_chunked_body_is_read_whole() -> None:
    assert seen(HTTP_TRANSFER_ENCODING="Chunked", **{"wsgi.input": io.BytesIO(b"12345678")}) == b"12345678"


def test_a_chunked_body_beyond_the_limit_stays_recognisable_as_such() -> None:
    assert seen(HTTP_TRANSFER_ENCODING="chunked", **{"wsgi.input": io.BytesIO(b"x" * 100)}) == b"x" * 9


def test_a_body_of_known_length_is_left_alone() -> None:
    assert seen(CONTENT_LENGTH="3", **{"wsgi.input": io.BytesIO(b"12345678")}) == b"123"


@pytest.mark.parametrize(("limit_bytes", "left"), [(1_000_000, b""), (10, b"x" * 90)])
def test_a_body_that_nobody_has_read_is_taken_before_the_answer_is_sent(limit_bytes: int, left: bytes) -> None:
    body = io.BytesIO(b"x" * 100)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return [b"refused"]

    taking = with_body_taken(application, limit_bytes=limit_bytes)
    assert taking({"wsgi.input": body}, lambda *_: None) == [b"refused"]  # type: ignore[arg-type]
    assert body.read() == left


def test_log_lines_of_a_request_carry_its_id_and_later_ones_do_not() -> None:
    bound: list[dict[str, object]] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        bound.append(structlog.contextvars.get_contextvars())
        return []

    with_request_id(application)({"HTTP_X_REQUEST_ID": "req-1"}, lambda *_: None)  # type: ignore[arg-type]
    assert bound == [{"request_id": "req-1"}]
    assert structlog.contextvars.get_contextvars() == {}
