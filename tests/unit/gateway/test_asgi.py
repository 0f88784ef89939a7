"""Bodies, request ids, and text in headers."""

from collections.abc import Iterable
from typing import Any

import pytest

from inference.gateway import asgi
from inference.gateway.call import Call
from inference.gateway.handlers import _ignored
from registry.errors import BodyTooLarge


def receiver(messages: Iterable[dict[str, Any]]) -> asgi.Receive:
    iterator = iter(messages)

    async def receive() -> asgi.Message:
        return next(iterator)

    return receive


def pieces(*bodies: bytes) -> list[dict[str, Any]]:
    last = len(bodies) - 1
    return [{"type": "http.request", "body": body, "more_body": n < last} for n, body in enumerate(bodies)]


async def nothing(message: asgi.Message) -> None:
    pass


async def test_a_body_in_one_piece_and_in_many() -> None:
    assert await asgi.read_body(receiver(pieces(b"abc")), {}) == b"abc"
    assert await asgi.read_body(receiver(pieces(b"a", b"", b"b", b"c")), {}) == b"abc"


async def test_a_body_that_is_announced_too_large_is_refused_before_any_of_it_is_read() -> None:
    untouched = receiver([])
    with pytest.raises(BodyTooLarge):
        await asgi.read_body(untouched, {b"content-length": b"%d" % (asgi.MAX_BODY_BYTES + 1)})


async def test_a_body_that_grows_too_large_is_refused_when_it_does() -> None:
    megabyte = b"x" * 1024 * 1024
    messages = receiver(pieces(*[megabyte] * 9, b"never read"))
    with pytest.raises(BodyTooLarge):
        await asgi.read_body(messages, {})
    assert (await messages())["body"] == b"never read"


async def test_a_body_of_exactly_the_limit_is_taken() -> None:
    body = b"x" * asgi.MAX_BODY_BYTES
    headers = {b"content-length": b"%d" % len(body)}
    assert len(await asgi.read_body(receiver(pieces(body)), headers)) == asgi.MAX_BODY_BYTES


async def test_a_client_that_leaves_amid_its_body_is_gone() -> None:
    with pytest.raises(asgi.ClientGone):
        await asgi.read_body(receiver([*pieces(b"a", b"")[:1], {"type": "http.disconnect"}]), {})


async def test_what_is_left_of_a_refused_body_is_taken_off_the_wire() -> None:
    messages = receiver([*pieces(b"a", b"b", b"c"), {"type": "http.disconnect"}])
    await asgi.discard_body(messages)
    assert (await messages())["type"] == "http.disconnect"


def a_call(*headers: tuple[bytes, bytes]) -> Call:
    return Call({"method": "GET", "path": "/", "headers": list(headers)}, receiver([]), nothing)


def test_a_clients_request_id_is_taken() -> None:
    assert a_call((b"x-request-id", b"my id/7")).request_id == "my id/7"


@pytest.mark.parametrize("wrong", [b"", b"x" * 129, b"caf\xc3\xa9", b"a\tb", b"a\x7fb"])
def test_a_request_id_that_headers_and_logs_could_not_hold_is_replaced(wrong: bytes) -> None:
    assert a_call((b"x-request-id", wrong)).request_id.startswith("req_")


def test_request_ids_differ() -> None:
    assert a_call().request_id != a_call().request_id


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Llama-3.3:Q4/x", b"Llama-3.3:Q4/x"), ("مرحبا", b"%D9%85%D8%B1%D8%AD%D8%A8%D8%A7"), ("a\r\nb", b"a%0D%0Ab")],
)
def test_any_text_can_be_told_in_a_header(text: str, expected: bytes) -> None:
    assert asgi.header_text(text) == expected


def test_ignored_names_make_one_short_safe_header() -> None:
    assert _ignored(["user", "a,b", "x\r\ny"]) == b"user, a%2Cb, x%0D%0Ay"
    assert len(_ignored(["n" * 10_000] * 1000)) < 2000
