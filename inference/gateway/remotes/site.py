"""What requests to one backend share: its connections, and what is counted of them."""

import asyncio
from collections.abc import Callable

import aiohttp
import structlog
from yarl import URL

from inference.protocol import Embedded, Finished
from registry.backends.values import Backend

log = structlog.get_logger(module="gateway")


class Site:
    """Owned by the event loop. Its connections are opened with the first request, and closed after the last one once
    it is :meth:`retired <retire>`."""

    def __init__(
        self,
        backend: Backend,
        model: str,
        open_session: Callable[[Backend], aiohttp.ClientSession],
        count: Callable[[str, Finished | Embedded], None],
    ) -> None:
        """
        Args:
            model: as it is called here.
            count: is told of each answer.
        """
        self.backend = backend
        self._count = count
        self.model = model
        self._open_session = open_session
        self._session: aiohttp.ClientSession | None = None
        self._requests = 0
        self._retired = False
        self._closing: asyncio.Task[None] | None = None
        self._knows_no_usage = False
        self.hidden_tokens = 0
        """What its templates have put around a prompt beyond what they usually do."""

    @property
    def secret(self) -> str:
        return self.backend.api_key

    @property
    def fault(self) -> str:
        return self.backend.fault

    @property
    def host(self) -> str:
        """For the log."""
        return URL(self.backend.url).authority

    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = self._open_session(self.backend)
        return self._session

    def cleaned(self, text: str) -> str:
        """Without its key."""
        return text.replace(self.secret, "…") if self.secret else text

    def began(self) -> None:
        self._requests += 1

    def ended(self) -> None:
        self._requests -= 1
        if self._retired and not self._requests:
            self._close()

    def retire(self) -> None:
        """Nobody asks it any more."""
        self._retired = True
        if not self._requests:
            self._close()

    @property
    def closed(self) -> bool:
        """Nobody uses it any more."""
        idle = self._retired and not self._requests
        return idle and (self._session is None or (self._closing is not None and self._closing.done()))

    async def close(self) -> None:
        """At once, whoever still uses it."""
        self._close()
        if self._closing is not None:
            await self._closing

    def told_no_usage(self) -> None:
        if not self._knows_no_usage:
            self._knows_no_usage = True
            log.warning(
                "A backend does not tell what its answers used: the most that they can have used is charged",
                model_id=self.model,
                backend=self.host,
            )

    def hides(self, tokens: int) -> None:
        """Some prompt had so many more than it could have, as we thought: that limits are held is as good as this."""
        self.hidden_tokens += tokens
        log.warning(
            "A backend puts more around prompts than was reckoned with: later ones are promised more",
            model_id=self.model,
            backend=self.host,
            tokens=self.hidden_tokens,
        )

    def served(self, message: Finished | Embedded) -> None:
        self._count(self.model, message)

    def _close(self) -> None:
        if self._session is not None and self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._session.close())
