"""A backend elsewhere, in the hands of a test: a real HTTP server whose answers are scripted."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

Answer = Callable[["Upstream", web.Request], Awaitable[web.StreamResponse]]


class Upstream:
    """On a port of its own. Requests are answered by :attr:`answers`, one each, and the last one over and over."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[dict[str, Any]] = []
        """Bodies."""
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.peers: list[object] = []
        """The addresses that they came from: one for each connection."""
        self.arrived = asyncio.Event()
        self.left = asyncio.Event()
        """A client has closed its connection while it was answered."""
        self.go_on = asyncio.Event()
        """What answers that wait do so for."""
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self) -> None:
        server = web.Server(self._serve, handler_cancellation=True)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request, web.BaseRequest)
        self.requests.append(json.loads(await request.read() or b"{}"))
        self.headers.append(dict(request.headers))
        self.paths.append(request.path)
        self.peers.append(request.transport and request.transport.get_extra_info("peername"))
        self.arrived.set()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        try:
            return await answer(self, request)  # type: ignore[arg-type] # what it needs of a request, this one has
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise


def chunk(content: str | None = None, *, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """Of a chat."""
    delta = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "x", "choices": [choice], **fields}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """The last chunk."""
    told = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return {"choices": [], "usage": {**told, "total_tokens": prompt_tokens + completion_tokens}}


HELLO = (chunk("Hel"), chunk("lo"), chunk(finish="stop"), usage(7, 2), "[DONE]")


def streams(*events: Any) -> Answer:
    """These; an :class:`asyncio.Event`'s name waits for it, and ``"close"`` breaks the connection off."""

    async def answer(upstream: Upstream, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in events:
            if event == "wait":
                await upstream.go_on.wait()
            elif event == "close":
                assert request.transport is not None
                request.transport.abort()
                return response
            else:
                await response.write(
                    b"data: %b\n\n" % (event if isinstance(event, str) else json.dumps(event)).encode()
                )
        return response

    return answer


def refuses(status: int, message: str = "no", *, headers: dict[str, str] | None = None, **error: Any) -> Answer:
    async def answer(upstream: Upstream, request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": message, **error}}, status=status, headers=headers)

    return answer


def says(body: bytes, content_type: str = "application/json") -> Answer:
    async def answer(upstream: Upstream, request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, content_type=content_type)

    return answer


async def hangs(upstream: Upstream, request: web.Request) -> web.StreamResponse:
    """Before its head."""
    await upstream.go_on.wait()
    return web.Response()


async def hangs_up(upstream: Upstream, request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()
