"""Everything that is not inference goes to the web process over its Unix socket.

Bodies are gathered here first: the web process has a thread for each request, and few of them, so that a handful of
clients that send theirs slowly, or not at all, would keep it from all others. Answers are streamed.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import structlog
from multidict import CIMultiDict
from yarl import URL

from inference.gateway.asgi import HeaderList, read_body
from inference.gateway.call import Call, ClientWatch
from registry.catalogue import REVISION_HEADER
from registry.errors import Unavailable

log = structlog.get_logger(module="gateway")

_REVISION_SECONDS = 1.0
_SILENCE_SECONDS = 60.0
"""So long the web process may say nothing. It waits for a database that hangs without end."""
_CONNECTIONS = 64
_PIECE_BYTES = 64 * 1024

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_TOLD_BY_US = frozenset(
    {b"expect", b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-request-id"}
)
_ADDED_TO_ANSWERS = frozenset({b"date", b"server", b"x-request-id"})


class WebProxy:
    def __init__(self, socket: Path, reached: Callable[[int, float], Awaitable[bool]]) -> None:
        """``reached``: waits until our own snapshot holds a revision, for so many seconds at most."""
        self._socket = socket
        self._reached = reached
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(
            # A connection for each request costs 0.1 ms on a Unix socket, and is never one that gunicorn just closed.
            connector=aiohttp.UnixConnector(str(self._socket), limit=_CONNECTIONS, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=_SILENCE_SECONDS),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            max_line_size=64 * 1024,
            max_field_size=64 * 1024,
        )

    async def stop(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def __call__(self, call: Call) -> None:
        """Pass a request on and its answer back.

        Raises:
            BodyTooLarge, InvalidRequest: see :func:`inference.gateway.asgi.read_body`.
            Unavailable: the web process is not there, or does not answer.
        """
        assert self._session is not None
        body = await read_body(call.receive, call.headers) if _has_body(call) else None
        try:
            with ClientWatch(call):
                async with self._session.request(
                    call.method,
                    _url(call),
                    headers=_request_headers(call),
                    data=body,
                    allow_redirects=False,
                ) as response:
                    await self._pass_back(call, response)
        except (aiohttp.ClientError, ConnectionError) as fault:
            log.warning("The web process did not answer", path=call.path, reason=str(fault), **call.ids)
            if call.started:
                return  # half an answer: the server closes the connection, which tells the client
            if isinstance(fault, aiohttp.SocketTimeoutError):
                raise Unavailable(
                    f"The web process, which serves this path, has not answered for {_SILENCE_SECONDS:.0f} s: is the "
                    "database there? See GET /health, and ask again.",
                    code="web_unavailable",
                    retry_after=10,
                ) from None
            raise Unavailable(
                "The web process, which serves this path, is starting or restarting: ask again.",
                code="web_unavailable",
                retry_after=2,
            ) from None

    async def _pass_back(self, call: Call, response: aiohttp.ClientResponse) -> None:
        revision = response.headers.get(REVISION_HEADER, "")
        if call.method not in ("GET", "HEAD", "OPTIONS") and revision.isdigit():
            await self._reached(int(revision), _REVISION_SECONDS)
        await call.start(response.status, _answer_headers(response))
        async for piece in response.content.iter_chunked(_PIECE_BYTES):
            await call.body(piece, more=True)
        await call.body(b"")


def _has_body(call: Call) -> bool:
    return call.headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in call.headers


def _url(call: Call) -> URL:
    query = call.scope["query_string"]
    path = call.scope["raw_path"] + (b"?" + query if query else b"")
    return URL("http://web" + path.decode("latin-1"), encoded=True)


def _request_headers(call: Call) -> CIMultiDict[str]:
    connection = _named_by_connection(call.headers.get(b"connection", b""))
    headers = CIMultiDict(
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in call.scope["headers"]
        if name not in _HOP_BY_HOP and name not in _TOLD_BY_US and name not in connection
    )
    # The server has resolved who calls and how, by its list of proxies that may be believed; what others claim of
    # themselves ends here.
    client = call.scope.get("client")
    if client:
        headers["X-Forwarded-For"] = client[0]
    headers["X-Forwarded-Proto"] = call.scope["scheme"]
    headers["X-Forwarded-Host"] = headers.get("Host", "")
    headers["X-Request-ID"] = call.request_id
    return headers


def _answer_headers(response: aiohttp.ClientResponse) -> HeaderList:
    connection = _named_by_connection(response.headers.get("Connection", "").encode("latin-1", "replace"))
    return [
        (lowered, value)
        for lowered, value in ((name.lower(), value) for name, value in response.raw_headers)
        if lowered not in _HOP_BY_HOP and lowered not in _ADDED_TO_ANSWERS and lowered not in connection
    ]


def _named_by_connection(value: bytes) -> frozenset[bytes]:
    """Headers that ``Connection`` declares to be for the next hop only."""
    return frozenset(token.strip().lower() for token in value.split(b","))
