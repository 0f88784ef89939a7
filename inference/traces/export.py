"""Spans on their way to a collector: OTLP over HTTP, from the event loop.

(A thread of its own would take the interpreter from the event loop just the same.)

https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

import asyncio
import gzip
from contextlib import suppress

import aiohttp
import structlog

from inference.traces.otlp import resource_message, resource_spans, span_message
from inference.traces.settings import TraceSettings
from inference.traces.spans import MakeSpans, Sink, Source

log = structlog.get_logger(module="traces")

_TOGETHER, _TOGETHER_SECONDS = 64, 0.1
"""Spans of so many requests are made in one go, in 1 ms: one at a time each finds the processor's caches cold, and
takes three times as long."""

_LAST_SECONDS = 1.0
"""What is left is sent when the process ends, if the collector takes it so soon."""
_RETRIED = frozenset({429, 502, 503, 504})
"""Answers after which the same batch may be sent again, by the specification."""
_TRIES = 3
_FIRST_PAUSE_SECONDS = 1.0


class OtlpSink(Sink):
    """Owned by the event loop. Nobody waits for it, and nothing that befalls it befalls a request."""

    def __init__(self, settings: TraceSettings, *, version: str, node: str) -> None:
        self._settings = settings
        self._scope = "nopenai", version
        self._common = {"service.version": version, "host.name": node, **settings.resource}
        self._unmade: list[MakeSpans] = []
        self._waiting: list[tuple[Source, bytes]] = []
        self._filled = asyncio.Event()
        self._any = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None
        self._failing = False
        self.exported = 0
        self.dropped = 0

    def take(self, make: MakeSpans) -> None:
        self._unmade.append(make)
        if len(self._unmade) == 1:
            asyncio.get_running_loop().call_later(_TOGETHER_SECONDS, self._make)
        elif len(self._unmade) == _TOGETHER:
            self._make()

    def _make(self) -> None:
        unmade, self._unmade = self._unmade, []
        for make in unmade:
            spans = make()
            room = max(0, self._settings.queue_spans - len(self._waiting))
            self.dropped += len(spans[room:])
            self._waiting += [(span.source, span_message(span)) for span in spans[:room]]
        if self._waiting:
            self._any.set()
        if len(self._waiting) >= self._settings.batch_spans:
            self._filled.set()

    def start(self) -> None:
        self._sender = asyncio.get_running_loop().create_task(self._send_batches())

    async def stop(self) -> None:
        """Send what is left, within a second."""
        if self._sender is None:
            return
        self._make()
        self._sender.cancel()
        with suppress(asyncio.CancelledError):
            await self._sender
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS), self._session() as session:
                while self._waiting:
                    await self._send(session)
        self.dropped += len(self._waiting)

    async def _send_batches(self) -> None:
        async with self._session() as session:
            while True:
                await self._any.wait()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.delay_seconds):
                        await self._filled.wait()
                await self._send(session)

    async def _send(self, session: aiohttp.ClientSession) -> None:
        """A batch. It goes on waiting until its fate is known: who is interrupted has lost nothing."""
        batch = self._waiting[: self._settings.batch_spans]
        body = self._request(batch)
        if self._settings.gzip:
            body = await asyncio.to_thread(gzip.compress, body, 1)
        fault = ""
        for attempt in range(_TRIES):
            if attempt:
                await asyncio.sleep(_FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
            fault, again = await self._post(session, body)
            if not again:
                break
        if fault:
            self.dropped += len(batch)
        else:
            self.exported += len(batch)
        del self._waiting[: len(batch)]
        if len(self._waiting) < self._settings.batch_spans:
            self._filled.clear()
        if not self._waiting:
            self._any.clear()
        self._tell(fault)

    async def _post(self, session: aiohttp.ClientSession, body: bytes) -> tuple[str, bool]:
        """Why the collector did not take it, empty if it did; and whether to try again."""
        try:
            async with session.post(self._settings.url, data=body) as response:
                if response.ok:
                    await response.read()
                    return "", False
                return f"it answers {response.status} {response.reason}", response.status in _RETRIED
        except TimeoutError:
            return f"it does not answer within {self._settings.timeout_seconds:g} s", False
        except (aiohttp.ClientError, OSError) as fault:
            return str(fault) or type(fault).__name__, True

    def _tell(self, fault: str) -> None:
        """Once, and once more when it is over."""
        if fault and not self._failing:
            log.warning("The collector takes no spans: they are dropped", url=self._settings.shown_url, reason=fault)
        elif self._failing and not fault:
            log.info("The collector takes spans again", url=self._settings.shown_url, dropped=self.dropped)
        self._failing = bool(fault)

    def _request(self, batch: list[tuple[Source, bytes]]) -> bytes:
        of_source: dict[Source, list[bytes]] = {}
        for source, span in batch:
            of_source.setdefault(source, []).append(span)
        return b"".join(
            resource_spans(self._resource(source), self._scope, spans) for source, spans in of_source.items()
        )

    def _resource(self, source: Source) -> bytes:
        own = {
            "service.name": f"{self._settings.service_prefix}-{source.service}",
            "service.instance.id": source.instance,
        }
        return resource_message(self._common | own)

    def _session(self) -> aiohttp.ClientSession:
        headers = {"Content-Type": "application/x-protobuf", **self._settings.headers}
        if self._settings.gzip:
            headers["Content-Encoding"] = "gzip"
        return aiohttp.ClientSession(
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=self._settings.timeout_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
