"""Recorded requests, on their way from the event loop to files: given every second, written by a thread.

A file for each gateway process, and another when it is full. The newest files of a directory stay, so many bytes of
them; nothing of the text of a request is in any (:mod:`routing.replay.records`). What can't be written is dropped.
"""

import asyncio
import contextlib
import hashlib
import os
import queue
import threading
import time
from pathlib import Path

import structlog

from inference.gateway.arrivals import Ended
from inference.prefixes import STEP_CHARACTERS, STEP_TOKENS, chat_ends
from inference.protocol import Embedded, Finished, FinishReason, ToolChoice
from registry.errors import first_line
from routing.replay.records import FORMAT, LINK_BYTES, Arrival, Fleet, Head, Outcome, encode_line

log = structlog.get_logger(module="request_router")

FILE_BYTES = 16 << 20
MOST_BYTES = 256 << 20
"""Of all files of a directory: some 500,000 requests."""

PATTERN = "arrivals-*.jsonl"

_STOP_SECONDS = 3.0
_MOST_BATCHES = 8
"""That wait for a disk that hangs."""

Batch = list[Ended | Fleet]


class ArrivalThread:
    """Runs from :meth:`start` to :meth:`stop`; both, and :meth:`write`, are called by the event loop, which never waits
    here."""

    def __init__(
        self, directory: Path, key: bytes, *, file_bytes: int = FILE_BYTES, most_bytes: int = MOST_BYTES
    ) -> None:
        """
        Args:
            key: of this installation: names of sessions are hashed with it.
            file_bytes: after which a file is followed by another one.
        """
        self._directory = directory
        self._key = hashlib.blake2b(key, digest_size=32, person=b"arrivals").digest()
        self._file_bytes = file_bytes
        self._most_bytes = most_bytes
        self._tasks: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="arrivals", daemon=True)
        self._given = 0
        self._done = 0
        """Batches: each number has one writer."""
        self._files = 0
        self._path: Path | None = None
        self._fleet: Fleet | None = None
        """The newest one: every file begins with it."""
        self._failing = False

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def idle(self) -> bool:
        """All that was given is written."""
        return self._given == self._done

    def write(self, batch: Batch) -> None:
        """It is the thread's from here on."""
        if batch and self._given - self._done < _MOST_BATCHES:
            self._given += 1
            self._tasks.put(batch)

    async def stop(self) -> None:
        """Write what is left. A disk that hangs is not waited for."""
        self._tasks.put(None)
        await asyncio.to_thread(self._thread.join, _STOP_SECONDS)

    # From here on: in the thread.

    def _run(self) -> None:
        while (batch := self._tasks.get()) is not None:
            try:
                self._append(self._lines(batch))
                self._failing = False
            except OSError as fault:
                self._tell_fault(fault)
            except Exception:
                log.exception("Requests are not recorded that can't be written")
            self._done += 1

    def _lines(self, batch: Batch) -> bytes:
        lines = []
        for each in batch:
            if isinstance(each, Fleet):
                self._fleet = each
                lines.append(encode_line(each))
            else:
                lines.append(encode_line(_arrival(each, self._key)))
        return b"".join(lines)

    def _append(self, lines: bytes) -> None:
        # Somebody may have cleared the directory: then its place is taken by a new one.
        with contextlib.suppress(FileNotFoundError):
            if self._path is not None and self._path.stat().st_size < self._file_bytes:
                with self._path.open("ab") as file:
                    file.write(lines)
                return
        self._begin_file(lines)

    def _begin_file(self, lines: bytes) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"arrivals-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}-{self._files}.jsonl"
        self._files += 1
        path = self._directory / name
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(encode_line(Head(format=FORMAT, gateway=str(os.getpid()))))
            if self._fleet is not None:
                file.write(encode_line(self._fleet))
            file.write(lines)
        self._path = path
        self._prune()

    def _prune(self) -> None:
        """The files that were written longest ago go, of any process. One of a process that lives is missed by it."""
        found = []
        for path in self._directory.glob(PATTERN):
            with contextlib.suppress(FileNotFoundError):  # another gateway prunes, too
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        kept = 0
        for _, size, path in sorted(found, reverse=True):
            kept += max(size, self._file_bytes) if path == self._path else size
            if kept > self._most_bytes and path != self._path:
                path.unlink(missing_ok=True)

    def _tell_fault(self, fault: OSError) -> None:
        if not self._failing:
            log.warning("Requests can't be recorded: they go unrecorded meanwhile", reason=first_line(fault))
        self._failing = True


def _arrival(ended: Ended, key: bytes) -> Arrival:
    applicant, last = ended.applicant, ended.last
    ask, request = applicant.ask, applicant.request
    finished = last if isinstance(last, Finished) else None
    prompt_tokens = last.prompt_tokens if isinstance(last, Finished | Embedded) else 0
    completion = finished.completion_tokens if finished is not None else 0
    steps = completion // request.choices - 1
    ends = _ends(ended, len(ask.links), prompt_tokens)
    return Arrival(
        at=round(ended.at, 4),
        route=applicant.decision.asked,
        named=applicant.decision.named,
        kind=ask.kind,
        capabilities=tuple(sorted(ask.capabilities)),
        models=None if ask.allowed.models is None else tuple(sorted(ask.allowed.models)),
        session=hashlib.blake2b(ask.session.encode(), digest_size=8, key=key).hexdigest() if ask.session else "",
        links=b"".join(link[:LINK_BYTES] for link in ask.links[: len(ends)]),
        ends=ends,
        context=ask.tokens,
        stream=request.stream,
        choices=request.choices,
        model=ended.model,
        outcome=_outcome(ended),
        prompt_tokens=prompt_tokens,
        cached_tokens=finished.cached_tokens if finished is not None else 0,
        completion_tokens=completion,
        prefill_seconds=round(finished.prefill_seconds, 6) if finished is not None else 0.0,
        first_token_seconds=round(ended.first_token, 6),
        token_seconds=round(finished.decode_seconds / steps, 6) if finished is not None and steps > 0 else 0.0,
    )


def _outcome(ended: Ended) -> Outcome:
    last = ended.last
    if ended.failed:
        return Outcome.FAILED
    if isinstance(last, Embedded) or (isinstance(last, Finished) and last.reason is not FinishReason.CANCELLED):
        return Outcome.ANSWERED
    return Outcome.LEFT


def _ends(ended: Ended, links: int, prompt_tokens: int) -> tuple[int, ...]:
    """About how many tokens each beginning of the prompt is, as its worker tells gateways, too."""
    request = ended.applicant.request
    if not links or not prompt_tokens:
        return ()
    if request.messages is not None:
        tools = () if request.tool_choice is ToolChoice.NONE else request.tools
        characters = chat_ends(request.messages, tools)
        return tuple(prompt_tokens * end // characters[-1] for end in characters[:links])
    if request.tokens is not None:
        return tuple(STEP_TOKENS * (step + 1) for step in range(links))
    whole = max(1, len(request.text or "") + len(request.suffix or ""))
    return tuple(min(prompt_tokens, prompt_tokens * STEP_CHARACTERS * (step + 1) // whole) for step in range(links))
