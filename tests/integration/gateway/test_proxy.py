"""What is not inference passes through to the web process, here a server on its Unix socket that a test writes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from inference.gateway import proxy
from inference.gateway.asgi import MAX_BODY_BYTES
from tests.catalogue import a_model
from tests.integration.gateway.conftest import StartRig
from tests.integration.gateway.rig import Rig
from tests.waiting import PATIENCE_SECONDS, until

M = a_model("m", 1)
Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def web_process(rig: Rig, handle: Handle) -> AsyncIterator[None]:
    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    await web.UnixSite(runner, str(rig.directory / "web.sock")).start()
    try:
        yield
    finally:
        await runner.cleanup()


async def test_a_request_arrives_as_it_was_sent_and_so_does_its_answer(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    seen: list[web.BaseRequest] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request)
        response = web.Response(status=201, body=b"made: " + await request.read())
        response.headers["X-Own"] = "1"
        response.headers.add("Set-Cookie", "a=1")
        response.headers.add("Set-Cookie", "b=2")
        return response

    async with web_process(rig, handle):
        headers = {"X-Custom": "x", "Cookie": "c=1", "X-Forwarded-For": "10.0.0.9", "X-Forwarded-Proto": "https"}
        url = URL("/api/v1/a%2Fb%20c/?q=%C3%A9&r=1+2", encoded=True)
        async with rig.client.put(url, data=b"body", headers=headers) as response:
            assert (response.status, await response.read()) == (201, b"made: body")
            assert response.headers["X-Own"] == "1"
            assert response.headers.getall("Set-Cookie") == ["a=1", "b=2"]
            assert len(response.headers.getall("Date")) == 1
            request_id = response.headers["X-Request-ID"]
    (request,) = seen
    assert (request.method, request.raw_path) == ("PUT", "/api/v1/a%2Fb%20c/?q=%C3%A9&r=1+2")
    assert (request.headers["X-Custom"], request.headers["Cookie"]) == ("x", "c=1")
    assert request.headers["Host"] == f"127.0.0.1:{rig.port}"
    # We are a proxy on this machine, so the server believes us.
    assert request.headers["X-Forwarded-For"] == "10.0.0.9"
    assert request.headers["X-Forwarded-Proto"] == "https"
    assert request.headers["X-Forwarded-Host"] == request.headers["Host"]
    assert request.headers["X-Request-ID"] == request_id


async def test_headers_for_one_hop_only_go_no_further(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    seen: list[web.BaseRequest] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request)
        return web.Response(headers={"Connection": "x-hop", "X-Hop": "1", "X-End": "1"})

    async with web_process(rig, handle):
        headers = {"Connection": "keep-alive, X-Private", "X-Private": "1", "TE": "trailers", "X-Kept": "1"}
        async with rig.client.get("/admin/", headers=headers) as response:
            assert "X-Hop" not in response.headers
            assert "X-End" in response.headers
    assert "X-Private" not in seen[0].headers
    assert "TE" not in seen[0].headers
    assert "X-Kept" in seen[0].headers


async def test_answers_stream(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    read = asyncio.Event()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"ONE ")
        await read.wait()  # the first piece has arrived before the second is sent
        await response.write(b"TWO")
        return response

    async with web_process(rig, handle), rig.client.get("/api/slow") as response:
        assert await response.content.readany() == b"ONE "
        read.set()
        assert await response.content.read() == b"TWO"


async def test_who_sends_a_body_slowly_keeps_nobody_else_from_the_web_process(start_rig: StartRig) -> None:
    """It hears of a request when all of that is here, of known length."""
    rig = await start_rig(M)
    seen: list[tuple[bytes, str | None]] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        seen.append((await request.read(), request.headers.get("Content-Length")))
        return web.Response()

    async with web_process(rig, handle):
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(
            b"POST /api/v1/keys HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nslow\r\n"
        )
        async with rig.client.post("/api/v1/keys", data=b"quick") as response:
            assert response.status == 200
        assert seen == [(b"quick", "5")]
        writer.write(b"2\r\nly\r\n0\r\n\r\n")
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert b"200 OK" in await reader.readline()
        assert seen[1:] == [(b"slowly", "6")]
        writer.close()


async def test_a_body_that_is_too_large_for_anything_is_refused_here(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    async with rig.client.post("/api/upload", data=b"x" * (MAX_BODY_BYTES + 1)) as response:
        body = await response.json()
    assert response.status == 413
    assert "8 MiB" in body["error"]["message"]


async def test_redirects_and_empty_answers_are_passed_on(start_rig: StartRig) -> None:
    rig = await start_rig(M)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/gone":
            return web.Response(status=204)
        return web.Response(status=302, headers={"Location": "/admin/login/"})

    async with web_process(rig, handle):
        async with rig.client.get("/admin/", allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (302, "/admin/login/")
        async with rig.client.delete("/gone") as response:
            assert (response.status, await response.read()) == (204, b"")
        async with rig.client.head("/admin/", allow_redirects=False) as response:
            assert response.status == 302


async def test_a_client_that_leaves_ends_the_request_behind(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    began, ended = asyncio.Event(), asyncio.Event()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        began.set()
        try:
            while True:
                await response.write(b"x")
                await asyncio.sleep(0.005)  # a pace, which nobody waits for
        finally:
            ended.set()

    async with web_process(rig, handle):
        async with rig.client.get("/api/endless") as response:
            await began.wait()
            response.close()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await ended.wait()


async def test_while_the_web_process_is_away_its_paths_say_so(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    for path in ("/admin/", "/api/v1/keys", "/nowhere"):
        async with rig.client.get(path) as response:
            body = await response.json()
        assert (response.status, body["error"]["code"]) == (503, "web_unavailable")
        assert "Retry-After" in response.headers
    async with rig.client.get("/v1/models") as response:
        assert response.status == 200


async def test_a_web_process_that_does_not_answer_is_not_waited_for_without_end(
    start_rig: StartRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "_SILENCE_SECONDS", 0.05)
    rig = await start_rig(M)
    over = asyncio.Event()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        await over.wait()
        return web.Response()

    async with web_process(rig, handle), rig.client.get("/routing/config") as response:
        body = await response.json()
        over.set()
    assert (response.status, body["error"]["code"]) == (503, "web_unavailable")
    assert "has not answered" in body["error"]["message"]


async def test_a_web_process_that_breaks_off_is_told_apart_before_and_after_its_head(start_rig: StartRig) -> None:
    rig = await start_rig(M)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        if request.path == "/before":
            request.transport.abort()
            return web.Response()
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"half")
        request.transport.abort()
        return response

    async with web_process(rig, handle):
        async with rig.client.get("/before") as response:
            assert response.status == 503
        async with rig.client.get("/after") as response:
            assert response.status == 200
            try:
                await response.read()
                raise AssertionError("half an answer looked whole")
            except aiohttp.ClientPayloadError:
                pass


async def test_a_write_is_answered_when_we_know_what_it_wrote(start_rig: StartRig) -> None:
    rig = await start_rig(M)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=201, headers={"X-NOpenAI-Revision": "2"})

    async with web_process(rig, handle):
        writing = asyncio.create_task(rig.client.post("/v1/models/register", json={}))
        await until(lambda: rig.feed.woken == 1)
        assert not writing.done()
        rig.feed.show(M, a_model("new", 2), revision=2)
        assert (await writing).status == 201
        async with rig.client.get("/v1/models/new") as response:
            assert response.status == 200


async def test_a_write_is_answered_after_a_second_even_if_its_revision_never_comes(start_rig: StartRig) -> None:
    rig = await start_rig(M)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=201, headers={"X-NOpenAI-Revision": "99"})

    async with web_process(rig, handle), rig.client.post("/v1/models/default", json={}) as response:
        assert response.status == 201
