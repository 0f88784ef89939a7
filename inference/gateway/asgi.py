"""The little of HTTP that we need above ASGI."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from registry.errors import BodyTooLarge, InvalidRequest

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = dict[bytes, bytes]
"""By lower-case name. Of a header that came twice the last one counts."""
HeaderList = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
EVENT_STREAM: HeaderList = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back to gather them
]

MAX_BODY_BYTES = 8 * 1024 * 1024

_BODY_SECONDS = 60.0
"""How long a body may take to arrive once its head is here."""

_DISCARD_SECONDS = 5.0
_DISCARD_BYTES = 64 * 1024 * 1024
"""How much of a refused body we still take off the wire, so that its sender gets to read the answer: closing a socket
with unread data resets the connection, and the answer is lost with it."""


DEPARTURE = "nopenai.departure"
"""Where a request's scope has its connection's :class:`Departure`."""


class Departure:
    """Of the client at the other end of a connection. ASGI has one wait for it in a task, which would be a twentieth of
    what a short request costs us."""

    __slots__ = ("happened", "tell")

    def __init__(self) -> None:
        self.happened = False
        self.tell: Callable[[], None] | None = None
        """Called when it happens: a connection's requests are handled one after the other."""

    def happens(self) -> None:
        self.happened = True
        if self.tell is not None:
            self.tell()


class ClientGone(Exception):
    """The client closed its connection; nobody waits for an answer."""


async def read_body(receive: Receive, headers: Headers) -> bytes:
    """The whole body of a request.

    Raises:
        BodyTooLarge: more than :data:`MAX_BODY_BYTES`; where the client announces it, before reading any.
        InvalidRequest: it does not arrive in time.
        ClientGone: it never arrives whole.
    """
    announced = headers.get(b"content-length", b"")
    if len(announced) > 6 and int(announced) > MAX_BODY_BYTES:  # the server has checked that it is a number
        raise _too_large()
    if _has_arrived(receive):
        return await _read_pieces(receive)
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            return await _read_pieces(receive)
    except TimeoutError:
        raise InvalidRequest(f"The request's body did not arrive within {_BODY_SECONDS:.0f} s.") from None


def _has_arrived(receive: Receive) -> bool:
    """All of the body came with the head, as it mostly does: nothing is waited for, so no clock need be set (2 µs).
    Only uvicorn's own ``receive`` tells."""
    return not getattr(getattr(receive, "__self__", None), "more_body", True)


async def _read_pieces(receive: Receive) -> bytes:
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        return message.get("body", b"")  # type: ignore[no-any-return]
    body = bytearray()
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise _too_large()
        if not message.get("more_body"):
            return bytes(body)
        message = await receive()


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(f"The request's body is larger than {MAX_BODY_BYTES} bytes (8 MiB), the most that is read.")


async def discard_body(receive: Receive) -> None:
    """Take what is left of a body off the wire, within bounds."""
    left = _DISCARD_BYTES
    try:
        async with asyncio.timeout(_DISCARD_SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body"):
                    return
    except TimeoutError:
        return


def header_text(text: str) -> bytes:
    """Text for the value of a header: printable ASCII as it is, anything else percent-encoded."""
    if text.isascii() and text.isprintable():
        return text.encode()
    return "".join(c if c.isascii() and c.isprintable() else _percent(c) for c in text).encode()


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode(errors="replace"))
