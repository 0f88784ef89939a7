"""uvicorn's HTTP protocol with six manners more: it declines HTTP/2 politely, sends head and body together, says when
the client leaves and what is wrong as all else here does, does not wait for a request's head without end, and takes
leave before it goes."""

import asyncio
import re
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from inference.gateway.asgi import DEPARTURE, Departure
from inference.gateway.openai_shapes import error_body
from registry.errors import InvalidRequest

_OFFER = re.compile(rb"\r\nupgrade:[ \t]*h2c[ \t]*(?=\r\n)", re.IGNORECASE)


_HEAD_SECONDS = 60.0
"""Who has connected, or begun with a request, has so long to send its head. (Between requests keepalive counts.)"""

_LINGER_SECONDS = 1
"""A server that ends waits so long for the next request of a connection, to answer it and say that it was the last:
closed at once, the connection would fail a request that is on its way already, and few clients ask twice."""


class HttpProtocol(HttpToolsProtocol):
    """Goes on in HTTP/1.1 where a client offers to go on in HTTP/2, as the standard lets a server do.

    Java's own HTTP client makes that offer on each new connection, with its first request. The parser beneath takes an
    offer for a done deal and drops the request's body, so the offer is taken out before it gets to see it.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._departure = Departure()
        self._leaving = False
        gathering = GatheringTransport(cast(asyncio.Transport, transport), self.loop)
        super().connection_made(cast(asyncio.Transport, gathering))
        self._head_due: asyncio.TimerHandle | None = self.loop.call_later(_HEAD_SECONDS, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)
        self._departure.happens()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast(dict[str, object], self.scope)[DEPARTURE] = self._departure

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self._leaving:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """The server ends: answer what has begun to come, and what is on its way."""
        self._leaving = True
        self.timeout_keep_alive = _LINGER_SECONDS
        if self._between_requests:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(_LINGER_SECONDS, self.timeout_keep_alive_handler)
        elif not self.cycle.response_started:
            self.cycle.keep_alive = False

    def data_received(self, data: bytes) -> None:
        # At the beginning of a request only: the same words in a body are the client's own business.
        if b"h2c" in data and (self.cycle is None or self.cycle.response_complete):
            head, end, rest = data.partition(b"\r\n\r\n")
            data = _OFFER.sub(b"", head + end[:2]) + end[2:] + rest
        super().data_received(data)
        if not self._between_requests:
            self._head_came()
        elif self._head_due is None:
            self._head_due = self.loop.call_later(_HEAD_SECONDS, self._give_up)

    @property
    def _between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _head_came(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

    def _give_up(self) -> None:
        self._head_due = None
        if self._between_requests and self.timeout_keep_alive_task is None:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """The parser can't go on: where the next request begins is unknown, too."""
        body = error_body(InvalidRequest(f"{msg} Its head or framing is not HTTP/1.1: use another client."))
        head = (
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        )
        self.transport.write(head + body)
        self.transport.close()


class GatheringTransport:
    """Gathers what one turn of the event loop writes: an answer's head and body leave in one system call and one
    packet. uvloop would send each at once, which is a fifth of what a short answer costs us."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._call_soon = loop.call_soon
        self._pieces: list[bytes] = []
        self.is_closing = transport.is_closing
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.get_extra_info = transport.get_extra_info

    def write(self, data: bytes) -> None:
        if not self._pieces:
            self._call_soon(self._flush)
        self._pieces.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        pieces, self._pieces = self._pieces, []
        # A client that left since then has closed it.
        if pieces and not self.is_closing():
            self._transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
