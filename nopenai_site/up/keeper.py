"""Keeps one child running: starts it, tells when it is ready, starts it again when it crashed."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from nopenai_site.up.backoff import Backoff
from nopenai_site.up.child import Child, ChildSpec, spawn
from nopenai_site.up.journal import Journal
from nopenai_site.up.terminal import readable

ATTEMPTS = 3
"""Exits before it was ready for the first time, after which the start is given up: it will not get better."""

_READY_POLL_SECONDS = 0.02


class NeverReady(Exception):
    """A child exits again and again before it is ready. ``str()`` is meant for the operator."""


class Keeper:
    """The owner of one child."""

    def __init__(self, spec: ChildSpec, journal: Journal, *, lowest: str, before: Callable[[], object] | None = None):
        """``before`` runs ahead of every start, on the main thread; what it raises ends :meth:`keep`."""
        self.spec = spec
        self.ready = asyncio.Event()
        self.child: Child | None = None
        self._journal = journal
        self._lowest = lowest
        self._before = before
        self._stopping = asyncio.Event()

    async def keep(self) -> None:
        """Returns once :meth:`stop` was called.

        Raises:
            NeverReady: see :data:`ATTEMPTS`.
        """
        backoff = Backoff()
        while not self._stopping.is_set():
            child = await self._start()
            readiness = asyncio.create_task(self._await_ready(child))
            await child.exited.wait()
            readiness.cancel()
            if self._stopping.is_set():
                return
            backoff = backoff.after_exit(uptime_seconds=child.uptime_seconds)
            await _bounded(child.output_ended.wait(), 1.0)
            if not self.ready.is_set() and backoff.exits >= ATTEMPTS:
                raise NeverReady(_obituary(child))
            self._journal.log(
                "ERROR",
                f"{self.spec.name} {child.describe_exit()}; starting it again",
                pid=child.pid,
                uptime_seconds=round(child.uptime_seconds, 1),
                delay_seconds=backoff.delay_seconds,
            )
            await _bounded(self._stopping.wait(), backoff.delay_seconds)

    async def stop(self, *, hurry: asyncio.Event) -> None:
        """End the child, and with it :meth:`keep`."""
        self._stopping.set()
        if self.child is not None:
            await self.child.stop(hurry=hurry)
            await _bounded(self.child.output_ended.wait(), 1.0)

    async def _start(self) -> Child:
        if self._before is not None:
            self._before()
        self.child = await spawn(self.spec, lowest=self._lowest, write=self._journal.write)
        self._journal.log("DEBUG", f"Started {self.spec.name}", pid=self.child.pid)
        return self.child

    async def _await_ready(self, child: Child) -> None:
        # Polled: it is another process that becomes ready, and it doesn't tell.
        while self.spec.ready is not None and not await self.spec.ready():  # noqa: ASYNC110
            await asyncio.sleep(_READY_POLL_SECONDS)
        self.ready.set()
        self._journal.log(
            "DEBUG", f"{self.spec.name} is ready", pid=child.pid, after_seconds=round(child.uptime_seconds, 2)
        )


def _obituary(child: Child) -> str:
    said = "\n".join(map(readable, child.last_lines)) or "  (it said nothing)"
    ending = f"{child.spec.name} {child.describe_exit()} {ATTEMPTS} times in a row before it was ready"
    return f"{ending}. Its last words:\n{said}"


async def _bounded(wait: Awaitable[object], seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(wait, seconds)
