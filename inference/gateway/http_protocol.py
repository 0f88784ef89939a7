"""uvicorn's HTTP protocol with two manners more: it declines HTTP/2 politely, and sends head and body together."""

import asyncio
import re
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_OFFER = re.compile(rb"\r\nupgrade:[ \t]*h2c[ \t]*(?=\r\n)", re.IGNORECASE)


class HttpProtocol(HttpToolsProtocol):
    """Goes on in HTTP/1.1 where a client offers to go on in HTTP/2, as the standard lets a server do.

    Java's own HTTP client makes that offer on each new connection, with its first request. The parser beneath takes an
    offer for a done deal and drops the request's body, so the offer is taken out before it gets to see it.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        gathering = GatheringTransport(cast(asyncio.Transport, transport), self.loop)
        super().connection_made(cast(asyncio.Transport, gathering))

    def data_received(self, data: bytes) -> None:
        # At the beginning of a request only: the same words in a body are the client's own business.
        if b"h2c" in data and (self.cycle is None or self.cycle.response_complete):
            head, end, rest = data.partition(b"\r\n\r\n")
            data = _OFFER.sub(b"", head + end[:2]) + end[2:] + rest
        super().data_received(data)


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
