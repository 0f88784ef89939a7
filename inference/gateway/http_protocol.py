"""uvicorn's HTTP protocol, taught to decline HTTP/2 politely."""

import re

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_OFFER = re.compile(rb"\r\nupgrade:[ \t]*h2c[ \t]*(?=\r\n)", re.IGNORECASE)


class HttpProtocol(HttpToolsProtocol):
    """Goes on in HTTP/1.1 where a client offers to go on in HTTP/2, as the standard lets a server do.

    Java's own HTTP client makes that offer on each new connection, with its first request. The parser beneath takes an
    offer for a done deal and drops the request's body, so the offer is taken out before it gets to see it.
    """

    def data_received(self, data: bytes) -> None:
        # At the beginning of a request only: the same words in a body are the client's own business.
        if b"h2c" in data and (self.cycle is None or self.cycle.response_complete):
            head, end, rest = data.partition(b"\r\n\r\n")
            data = _OFFER.sub(b"", head + end[:2]) + end[2:] + rest
        super().data_received(data)
