"""One HTTP request in our hands: its identity, its headers, and whether its client is still there."""

import asyncio
import os
from types import TracebackType
from typing import TYPE_CHECKING

from inference.gateway.asgi import DEPARTURE, Departure, HeaderList, Headers, Receive, Scope, Send
from inference.traces.trace import Trace, log_ids
from quotas.callers import Caller
from registry.errors import ApiError
from routing.ask import Ask

if TYPE_CHECKING:
    from inference.gateway.admitted import Admitted, Applicant
    from inference.gateway.dispatch import Answer

_LONGEST_REQUEST_ID = 128


class Call:
    __slots__ = (
        "admitted",
        "applicant",
        "ask",
        "begun",
        "caller",
        "error",
        "events_open",
        "gone",
        "headers",
        "hex",
        "method",
        "more_headers",
        "path",
        "receive",
        "request_id",
        "scope",
        "send",
        "started",
        "status",
        "trace",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: Headers = dict(scope["headers"])
        self.hex = os.urandom(12).hex()
        """Makes this request's ids unique."""
        self.request_id = _valid_request_id(self.headers.get(b"x-request-id")) or f"req_{self.hex}"
        """The client's own, if it is fit for headers and logs, else ours."""
        self.caller: Caller | None = None
        """Who was let in, by an endpoint that looks at the key alone; None: without a key."""
        self.started = False
        """Whether the head of an answer was sent."""
        self.events_open = False
        """Whether its head promised events, and none of the answer was sent yet: an error can be one."""
        self.status = 0
        """Of that answer."""
        self.trace: Trace | None = None
        """Of an inference request that is traced."""

        # How far it has come, for who tells it when it is over.
        self.ask: Ask | None = None
        self.applicant: Applicant | None = None
        self.admitted: Admitted | None = None
        self.begun: Answer | None = None
        self.error: ApiError | None = None
        self.gone = False
        """Whether the client closed its connection."""
        self.more_headers: HeaderList = []
        """Of the answer, whatever it will be: how the caller stands with the limits."""

    @property
    def ids(self) -> dict[str, str]:
        """The fields of a log line that tell this request."""
        return log_ids(self.request_id, self.trace)

    async def start(self, status: int, headers: HeaderList) -> None:
        self.started, self.status = True, status
        headers += [(b"x-request-id", self.request_id.encode()), *self.more_headers]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def body(self, body: bytes, *, more: bool = False) -> None:
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def answer(self, status: int, headers: HeaderList, body: bytes) -> None:
        await self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self.body(body)


class ClientWatch:
    """While entered, cancels its task when the client closes the connection: whatever the task waits for, a load, a
    token or the client's own slow socket, ends at once. ``Call.gone`` then tells this cancellation from any other."""

    __slots__ = ("_call", "_departure", "_task")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._departure: Departure = call.scope[DEPARTURE]

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        if self._departure.happened:
            self._left()
        self._departure.tell = self._left

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self._departure.tell = None

    def _left(self) -> None:
        self._call.gone = True
        self._task.cancel()


def _valid_request_id(raw: bytes | None) -> str | None:
    if not raw or len(raw) > _LONGEST_REQUEST_ID:
        return None
    text = raw.decode("latin-1")
    return text if text.isascii() and text.isprintable() else None
