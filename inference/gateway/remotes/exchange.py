"""One request to a backend, from its first byte to its last, told as a worker would.

1. Under a limit, it is promised the most that it can come to before it is sent: a backend counts only afterwards.
2. It is sent. Until the first token comes, whatever fails is the dispatcher's to try again, here or elsewhere.
3. What comes is told at once, piece by piece.
4. However it ends, its meter hears so exactly once: of what the backend says that it used, else of the most that it can
   have used.
"""

import asyncio
import contextlib
import time
from collections.abc import Set
from dataclasses import dataclass

import aiohttp
import structlog

from inference.gateway.remotes import refusals
from inference.gateway.remotes.bodies import body_of, path_of
from inference.gateway.remotes.bounds import prompt_bound
from inference.gateway.remotes.events import EventDecoder, Garbled
from inference.gateway.remotes.reading import BackendError, Reading
from inference.gateway.remotes.refusals import Refusal
from inference.gateway.remotes.site import Site
from inference.gateway.remotes.vectors import embedded
from inference.gateway.workers import Connection, Listener, Meter, StreamMessage
from inference.protocol import Accepted, Embed, Embedded, Failed, Finished, FinishReason, Generate, Grant, Wants
from registry.backends.client import refused_address

log = structlog.get_logger(module="gateway")

USUAL_ANSWER_TOKENS = 4096
"""An answer without ``max_tokens`` is promised so many, where tokens are limited and so many are left."""

_DRAIN_SECONDS = 1.0
_MOST_ERROR_BYTES = 64 * 1024
_MOST_VECTOR_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a backend is waited for, in seconds."""

    connect: float = 5.0
    first_token: float = 120.0
    silence: float = 60.0
    """Between two pieces of an answer, after its first token."""


class _NotGranted(Exception):
    """Of its limit not even the prompt's bound is left."""

    def __init__(self, needed: int, granted: int) -> None:
        super().__init__(f"{needed} tokens may be needed, and {granted} are granted")


class Exchange:
    """Runs from :meth:`start` until its task is over."""

    def __init__(
        self,
        site: Site,
        connection: Connection,
        request: Generate | Embed,
        listener: Listener,
        meter: Meter | None,
        *,
        given: Set[str],
        patience: Patience,
    ) -> None:
        self._site = site
        self._connection = connection
        self._request = request
        self._listener = listener
        self._meter = meter
        self._given = given
        self._patience = patience
        self._bound = prompt_bound(request) + site.hidden_tokens
        self._max_tokens: int | None = None
        """Of each choice, as it was sent."""
        self._reading: Reading | None = None
        """None: it is not sent yet."""
        self._grant: asyncio.Future[Grant] | None = None
        self._over = False
        """Its last message was told."""
        self._task: asyncio.Task[None]

    def start(self) -> None:
        self._site.began()
        self._task = self._connection.loop.create_task(self._run())
        self._task.add_done_callback(lambda _: self._ended())

    def cancel(self) -> None:
        """Nobody waits for it: the backend's connection is closed, which stops its work."""
        self._task.cancel()

    def granted(self, grant: Grant) -> None:
        if self._grant is not None and not self._grant.done():
            self._grant.set_result(grant)

    async def _run(self) -> None:
        try:
            await self._converse()
        except _NotGranted as short:
            self._tell(Failed(id=self._request.id, status=429, code="quota_exceeded", message=str(short)))
        except Garbled as what:
            self._refuse(refusals.garbled(self._request.id, self._site.model, str(what)))
        except BackendError as failed:
            self._refuse(refusals.broken(self._request.id, self._site.model, failed.said, secret=self._site.secret))
        except aiohttp.ClientError as fault:
            self._break_off(fault)
        except TimeoutError:
            self._fall_silent()
        except OSError as fault:
            self._break_off(fault)

    async def _converse(self) -> None:
        if self._site.fault:
            self._refuse(refusals.misconfigured(self._request.id, self._site.model, self._site.fault))
            return
        self._max_tokens = await self._affordable()
        body = body_of(self._request, self._site.backend.model, self._given, self._max_tokens)
        self._reading = Reading(self._request.id, 0 if isinstance(self._request, Embed) else self._request.n)
        async with (
            asyncio.timeout(self._patience.first_token) as patience,
            self._site.session().post(
                self._site.backend.url + path_of(self._request),
                data=body,
                headers=self._headers(),
                allow_redirects=False,
            ) as response,
        ):
            if response.status != 200:
                await self._take_refusal(response)
            elif isinstance(self._request, Embed):
                await self._take_vectors(response, self._request)
            else:
                await self._take_stream(response, patience)

    async def _affordable(self) -> int | None:
        """How many tokens each choice may have; None: there is no bound.

        Raises:
            _NotGranted: not one.
        """
        request = self._request
        wanted, choices = (0, 0) if isinstance(request, Embed) else (request.max_tokens, request.n)
        if request.granted_tokens is None or self._meter is None:
            return wanted
        answer = USUAL_ANSWER_TOKENS if wanted is None else wanted
        needed = self._bound + choices * answer
        granted = request.granted_tokens
        if granted < needed:
            granted = (await self._ask_for(self._meter, needed)).tokens
        if granted >= needed:
            return answer
        affordable = (granted - self._bound) // choices if choices else 0
        if affordable < 1:
            raise _NotGranted(self._bound + choices, granted)
        return affordable

    async def _ask_for(self, meter: Meter, tokens: int) -> Grant:
        self._grant = self._connection.loop.create_future()
        meter.feed(Wants(id=self._request.id, tokens=tokens), self._connection)
        return await self._grant

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream, application/json"}
        if self._request.traceparent:
            headers["traceparent"] = self._request.traceparent
        return headers

    async def _take_stream(self, response: aiohttp.ClientResponse, patience: asyncio.Timeout) -> None:
        if response.content_type != "text/event-stream":
            raise Garbled(f"{response.content_type}, not a stream of events")
        reading, decoder, loop = self._reading, EventDecoder(), self._connection.loop
        assert reading is not None
        self._tell(Accepted(id=self._request.id, prompt_tokens=self._bound))
        async for piece in response.content.iter_any():
            for event in decoder.feed(piece):
                for delta in reading.take(event):
                    self._tell(delta)
            if reading.done:
                break
            if reading.tokens:
                patience.reschedule(loop.time() + self._patience.silence)
        if not reading.done and not reading.complete:
            raise aiohttp.ServerDisconnectedError("the stream ends amid the answer")
        self._finish(reading)
        await _drain(response)

    def _finish(self, reading: Reading) -> None:
        if reading.usage is None:
            self._site.told_no_usage()
        elif (more := reading.usage.prompt_tokens - self._bound) > 0:
            self._site.hides(more)
        most = reading.tokens if self._max_tokens is None else self._max_tokens * reading.choices
        self._tell(reading.finished(self._bound, most))

    async def _take_vectors(self, response: aiohttp.ClientResponse, request: Embed) -> None:
        body = await _read(response, _MOST_VECTOR_BYTES)
        vectors, told = embedded(body, request.id, len(request.inputs), self._bound)
        if not told:
            self._site.told_no_usage()
        self._tell(vectors)

    async def _take_refusal(self, response: aiohttp.ClientResponse) -> None:
        body = await _read(response, _MOST_ERROR_BYTES)
        self._refuse(
            refusals.refusal_of(
                self._request.id,
                self._site.model,
                response.status,
                response.headers,
                body,
                secret=self._site.secret,
                now=time.time(),
            )
        )

    # How it ends

    def _refuse(self, refusal: Refusal) -> None:
        (log.info if refusal.failed.status == 400 else log.warning)(
            "A backend did not answer a request",
            model_id=self._site.model,
            backend=self._site.host,
            code=refusal.failed.code,
            reason=refusal.said,
            request_id=self._request.request_id,
        )
        self._tell(refusal.failed)

    def _break_off(self, fault: Exception) -> None:
        """The connection could not be made, or is gone."""
        if (refused := refused_address(fault)) is not None:
            self._refuse(refusals.misconfigured(self._request.id, self._site.model, str(refused)))
            return
        reading = self._reading
        if reading is not None and reading.complete:
            self._finish(reading)
            return
        log.warning(
            "A backend was lost",
            model_id=self._site.model,
            backend=self._site.host,
            reason=self._site.cleaned(str(fault) or type(fault).__name__),
            request_id=self._request.request_id,
        )
        reached = not isinstance(fault, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
        self._lose("its backend broke the connection off" if reached else "its backend can't be reached")

    def _fall_silent(self) -> None:
        reading = self._reading
        if reading is not None and reading.complete:  # only its usage did not come
            self._finish(reading)
            return
        seconds = self._patience.silence if reading is not None and reading.tokens else self._patience.first_token
        self._refuse(refusals.silent(self._request.id, self._site.model, seconds))

    def _tell(self, message: StreamMessage) -> None:
        if isinstance(message, Finished | Embedded):
            self._site.served(message)
        self._over = isinstance(message, Finished | Embedded | Failed)
        if self._meter is not None:
            self._meter.feed(message, self._connection)
        self._listener.feed(message)

    def _lose(self, fault: str) -> None:
        self._over = True
        if self._meter is not None:
            self._meter.lose()
        if not self._listener.ended:
            self._listener.lose(fault)

    def _ended(self) -> None:
        """Its task is over. If that was not told yet, it was cancelled, or there is a fault of ours."""
        self._site.ended()
        if self._over:
            return
        if not self._task.cancelled() and (fault := self._task.exception()) is not None:
            log.error("A backend's answer could not be read", model_id=self._site.model, exc_info=fault)
            self._lose("its answer could not be read")
        else:
            self._withdraw()

    def _withdraw(self) -> None:
        """What was not sent costs nothing; of the rest a backend tells no usage any more."""
        reading, nothing = self._reading, FinishReason.CANCELLED
        if self._meter is not None and reading is not None:
            self._meter.feed(reading.finished(self._bound, reading.tokens, nothing), self._connection)
        elif self._meter is not None:
            unsent = Finished(id=self._request.id, reason=nothing, prompt_tokens=0, completion_tokens=0)
            self._meter.feed(unsent, self._connection)
        if not self._listener.ended:
            self._listener.lose("the server is shutting down")


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read what follows the last event, the end of the body, so that the connection can be used again."""
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for _ in response.content.iter_any():
                pass


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Raises Garbled: it is longer than ``most`` bytes."""
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > most:
            raise Garbled(f"an answer of more than {most} bytes")
    return bytes(body)
