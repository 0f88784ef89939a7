"""What all connections of the stub share."""

import argparse
import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from inference.durations import Histogram
from inference.protocol import (
    PROTOCOL_VERSION,
    CacheBudget,
    Finished,
    HeldPrefixes,
    Hello,
    WorkerCounts,
    WorkerLoad,
    encode_frame,
)
from tests.stub_worker.cache import Cache
from tests.stub_worker.faults import pass_gate
from tests.stub_worker.supervisor import tell_supervisor

if TYPE_CHECKING:
    from tests.stub_worker.connection import Connection

REPORT_SECONDS = 0.02


class Worker:
    """What all connections share."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.connections: set[Connection] = set()
        self.cache = Cache()
        self.told_budget = False
        self._counts = WorkerCounts()
        self._queue_wait = Histogram()
        self.told_prefixes: dict[bytes, int] = {}
        self._cache_due = False
        self.token_seconds: float = arguments.token_seconds
        self._tally: Path | None = arguments.tally and arguments.tally / arguments.model_id
        self._running_log: Path | None = arguments.running_log
        self.context_tokens: int = arguments.context_tokens
        self.hello = encode_frame(
            [
                Hello(
                    protocol=PROTOCOL_VERSION,
                    model=arguments.model_id,
                    version=arguments.version,
                    context_tokens=arguments.context_tokens,
                    max_sequences=arguments.max_sequences,
                    pid=os.getpid(),
                )
            ]
        )
        faults = {"crash": arguments.crash_after, "fail": arguments.fail_after, "hang": arguments.hang_after}
        self.faults = {kind: after for kind, after in faults.items() if after is not None}
        self._gate: str | None = arguments.hang_gate
        self._gate_watched = False
        self._hung: list[Callable[[], None]] = []

    def announce_load(self) -> None:
        """Soon: after what is being written. Requests that are answered at once never show here."""
        asyncio.get_running_loop().call_soon(self._announce_load)

    def _announce_load(self) -> None:
        running = sum(len(connection.running) for connection in self.connections)
        frame = encode_frame([WorkerLoad(running=running, waiting=0)])
        for connection in self.connections:
            connection.transport.write(frame)

    def note_running(self) -> None:
        """How many run now, on all connections, and when: a line for each change."""
        if self._running_log is not None:
            running = sum(len(connection.running) for connection in self.connections)
            with self._running_log.open("a") as log:
                log.write(f"{time.monotonic()} {running}\n")

    def made(self, tokens: int) -> None:
        """Tokens were made, of a prompt or an answer, whoever gets them: the tally's length says how many in all."""
        if self._tally is not None:
            with self._tally.open("ab") as tally:
                tally.write(b"." * tokens)

    def set_budget(self, budget: CacheBudget) -> None:
        self.cache.set_budget(budget)
        self.told_budget = True
        self.announce_cache()

    def announce_cache(self) -> None:
        """Soon, to the supervisor and to all who are connected, if there is one who told us a budget: nobody else
        reads our standard output."""
        if self.told_budget and not self._cache_due:
            self._cache_due = True
            asyncio.get_running_loop().call_later(REPORT_SECONDS, self._announce_cache)

    def _announce_cache(self) -> None:
        self._cache_due = False
        report = self.cache.report()
        tell_supervisor(report)
        tell_supervisor(self._counts)
        frame = encode_frame([report, self._changed_prefixes()])
        for connection in self.connections:
            connection.transport.write(frame)

    def _changed_prefixes(self) -> HeldPrefixes:
        before, self.told_prefixes = self.told_prefixes, dict(self.cache.prefixes)
        added = {link: tokens for link, tokens in self.told_prefixes.items() if before.get(link) != tokens}
        return HeldPrefixes(added=added, removed=tuple(before.keys() - self.told_prefixes.keys()))

    def count(self, finished: Finished) -> None:
        self._queue_wait.observe(finished.queue_seconds)
        self._counts = WorkerCounts(
            prompt_tokens=self._counts.prompt_tokens + finished.prompt_tokens,
            cached_tokens=self._counts.cached_tokens + finished.cached_tokens,
            completion_tokens=self._counts.completion_tokens + finished.completion_tokens,
            queue_wait=self._queue_wait.durations,
        )
        self.announce_cache()

    def hang(self, go_on: Callable[[], None]) -> None:
        self._hung.append(go_on)
        if self._gate and not self._gate_watched:
            self._gate_watched = True
            threading.Thread(
                target=self._watch_gate, args=(self._gate, asyncio.get_running_loop()), daemon=True
            ).start()

    def _watch_gate(self, gate: str, loop: asyncio.AbstractEventLoop) -> None:
        pass_gate(gate)
        loop.call_soon_threadsafe(self._release)

    def _release(self) -> None:
        self._gate_watched = False
        hung, self._hung = self._hung, []
        for go_on in hung:
            go_on()
