"""A backend's errors, as the client is told and as the operator is."""

from email.utils import formatdate

import pytest

from inference.gateway.remotes.refusals import Refusal, broken, pause_of, refusal_of

NOW = 1_700_000_000.0
SECRET = "sk-very-secret"


def refusal(status: int, body: bytes = b"{}", retry_after: str | None = None) -> Refusal:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return refusal_of(1, "away", status, headers, body, secret=SECRET, now=NOW)


@pytest.mark.parametrize(
    ("status", "client", "code"),
    [
        (301, 503, "backend_misconfigured"),
        (307, 503, "backend_misconfigured"),
        (400, 400, ""),
        (401, 503, "backend_unauthorized"),
        (402, 500, "backend_failed"),
        (403, 503, "backend_unauthorized"),
        (404, 503, "backend_misconfigured"),
        (413, 400, ""),
        (418, 500, "backend_failed"),
        (422, 400, ""),
        (429, 429, "rate_limited"),
        (500, 500, "backend_failed"),
        (501, 503, "backend_misconfigured"),
        (502, 503, "backend_unavailable"),
        (503, 503, "backend_unavailable"),
        (504, 503, "backend_unavailable"),
        (204, 500, "backend_failed"),
    ],
)
def test_each_status_has_its_meaning(status: int, client: int, code: str) -> None:
    failed = refusal(status).failed
    assert (failed.status, failed.code) == (client, code)
    assert (failed.retry_after is None) == (client in (400, 500))


def test_the_clients_own_fault_is_told_in_the_backends_words() -> None:
    failed = refusal(400, b'{"error": {"message": "no such tool", "param": "tools[0]"}}').failed
    assert "no such tool" in failed.message
    assert failed.param == "tools[0]"


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"code": "context_length_exceeded", "message": "x"}}',
        b'{"error": {"type": "exceed_context_size_error", "message": "x"}}',
        b'{"object": "error", "message": "This model\'s maximum context length is 8192 tokens."}',
        b'{"detail": "the request exceeds the available context size"}',
    ],
)
def test_a_prompt_that_is_too_long_is_told_as_such(body: bytes) -> None:
    assert refusal(400, body).failed.code == "context_length_exceeded"


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503, 404])
def test_what_is_not_the_clients_affair_it_is_not_told(status: int) -> None:
    told = refusal(status, b'{"error": {"message": "disk 7 of host db-3"}}')
    assert "db-3" not in told.failed.message
    assert "db-3" in told.said


@pytest.mark.parametrize(
    "body",
    [SECRET.encode(), b'{"error": "' + SECRET.encode() + b'"}', b'{"error":{"message":"' + SECRET.encode() + b'"}}'],
)
@pytest.mark.parametrize("status", [400, 401, 500])
def test_our_key_is_in_no_words(status: int, body: bytes) -> None:
    told = refusal(status, body)
    assert SECRET not in told.said + told.failed.message
    assert SECRET not in broken(1, "away", body, secret=SECRET).said


@pytest.mark.parametrize(
    "body", [b"", b"\xff\xfe", b"[" * 100_000, b'{"error": 5}', b"[1]", b"null", b'{"message": {}}']
)
def test_no_body_breaks_it(body: bytes) -> None:
    assert refusal(400, body).failed.status == 400


def test_its_words_are_bounded_and_one_line() -> None:
    said = refusal(500, b"<html>\n\x1b[31m" + b"x" * 10_000).said
    assert len(said) < 600
    assert said.isprintable()


@pytest.mark.parametrize(
    ("raw", "seconds"),
    [
        (None, None),
        ("17", 17),
        ("0", 1),
        ("-5", 1),
        ("1.6", 2),
        ("99999999", 24 * 3600),
        (formatdate(NOW + 30, usegmt=True), 30),
        (formatdate(NOW - 30, usegmt=True), 1),
        ("soon", None),
        ("nan", None),
        ("inf", 24 * 3600),
        ("", None),
    ],
)
def test_when_to_ask_again_is_read_as_number_and_as_date(raw: str | None, seconds: int | None) -> None:
    assert pause_of(raw, NOW) == seconds


def test_without_a_word_of_it_we_name_a_pause_ourselves() -> None:
    assert refusal(429).failed.retry_after
    assert refusal(429, retry_after="17").failed.retry_after == 17
