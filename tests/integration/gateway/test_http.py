"""Odd but honest HTTP, byte by byte."""

import asyncio
import json

import pytest

from inference.gateway import asgi, http_protocol
from tests.catalogue import a_model
from tests.integration.gateway.conftest import StartRig
from tests.integration.gateway.rig import Rig
from tests.waiting import PATIENCE_SECONDS

M = a_model("m", 1)
BODY = b'{"messages": [{"role": "user", "content": "Hello!"}]}'


async def exchange(rig: Rig, *pieces: bytes, end: bytes = b"}}}") -> bytes:
    """Send pieces one by one; read until the answer's last bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    async with asyncio.timeout(PATIENCE_SECONDS):
        answer = await reader.readuntil(end)
    writer.close()
    return answer


def head(*headers: bytes, length: int = len(BODY)) -> bytes:
    lines = (b"POST /v1/chat/completions HTTP/1.1", b"Host: localhost", b"Content-Length: %d" % length, *headers)
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def test_a_client_that_offers_http_2_is_served_with_http_1(start_rig: StartRig) -> None:
    """Java's own HTTP client asks for it on every connection, POST bodies included."""
    rig = await start_rig(M)
    await rig.worker(M)
    offer = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk")
    assert b"200 OK" in await exchange(rig, head(*offer) + BODY)


async def test_words_of_an_offer_in_a_body_are_left_alone(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    await rig.worker(M)
    body = b'{"prompt": "Upgrade: h2c", "echo": true}'
    request = head(length=len(body)).replace(b"/chat/", b"/")
    assert b'"text":"Upgrade: h2cstub' in await exchange(rig, request + body)


async def test_a_body_that_comes_byte_by_byte(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    await rig.worker(M)
    assert b"200 OK" in await exchange(rig, head(), *(bytes([byte]) for byte in BODY))


async def test_two_requests_sent_at_once_are_answered_in_turn(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    await rig.worker(M)
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write((head() + BODY) * 2)
    async with asyncio.timeout(PATIENCE_SECONDS):
        for _ in range(2):
            assert b"200 OK" in await reader.readuntil(b"}}}")
    writer.close()


async def test_a_chunked_body(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    await rig.worker(M)
    request = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert b"200 OK" in await exchange(rig, request + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY))


async def test_http_1_0_is_answered_and_closed(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    await rig.worker(M)
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(head().replace(b"HTTP/1.1", b"HTTP/1.0") + BODY)
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert b"200 OK" in await reader.read()
    writer.close()


@pytest.mark.parametrize("sent", [b"", BODY[:10]])
async def test_a_body_that_never_comes_whole_is_not_waited_for_without_end(
    start_rig: StartRig, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(asgi, "_BODY_SECONDS", 0.05)
    rig = await start_rig(M)
    answer = await exchange(rig, head() + sent, end=b"}}")
    assert b"400 Bad Request" in answer
    assert b"did not arrive" in answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nX-Request-ID: a\x00b\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_refused_in_openais_shape(start_rig: StartRig, request_bytes: bytes) -> None:
    rig = await start_rig(M)
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(request_bytes)
    async with asyncio.timeout(PATIENCE_SECONDS):
        head, body = (await reader.read()).split(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n")
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("before", [b"", head() + BODY])
@pytest.mark.parametrize("begun", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nContent-Le"])
async def test_a_head_that_never_comes_whole_is_not_waited_for_without_end(
    start_rig: StartRig, monkeypatch: pytest.MonkeyPatch, before: bytes, begun: bytes
) -> None:
    monkeypatch.setattr(http_protocol, "_HEAD_SECONDS", 0.05)
    rig = await start_rig(M)
    await rig.worker(M)
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    async with asyncio.timeout(PATIENCE_SECONDS):
        if before:
            writer.write(before)
            await reader.readuntil(b"}}}")
        writer.write(begun)
        if begun or not before:  # else it idles between two requests
            assert await reader.read() == b""
    writer.close()


async def test_a_request_on_its_way_to_a_server_that_ends_is_answered_and_is_the_last(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    await rig.worker(M)
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    async with asyncio.timeout(PATIENCE_SECONDS):
        writer.write(head() + BODY)
        assert b"connection: close" not in await reader.readuntil(b"}}}")
        ending = asyncio.create_task(rig.shut_down())
        await rig.until_closed()
        writer.write(head() + BODY)
        answer = await reader.read()
        await ending
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"connection: close" in answer
