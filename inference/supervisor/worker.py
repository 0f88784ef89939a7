"""One engine process: started, listened to, signalled, and its end explained. It decides nothing.

A worker can't outlive us: the kernel kills it when the thread that started it ends, which is our main thread. It has a
session of its own, so that Ctrl-C reaches it through us only, in order.
"""

import asyncio
import os
import signal
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec
import structlog

from inference.protocol import (
    CacheBudget,
    CacheReport,
    EngineParameters,
    FrameDecoder,
    ModelSpec,
    ProtocolError,
    Tuned,
    WorkerCounts,
    WorkerLoad,
    WorkerStage,
    WorkerStatus,
    WorkerToGateway,
    WorkerToSupervisor,
    read_messages,
)
from inference.supervisor.events import Event, WorkerBusy, WorkerExited, WorkerReported, WorkerSpawned
from inference.supervisor.latest_line import LatestLine
from inference.supervisor.launching import Launch, bury, exit_of, explain, hand_over, spawn
from inference.supervisor.liveness import stands_still

log = structlog.get_logger(module="supervisor")
engine_log = structlog.get_logger(module="engine")

_LINE_BYTES = 1 << 20
_MIB = 1024**2
_LAST_LINES = 20
_PIPES_SECONDS = 1.0
"""How long we read on after an exit: a grandchild may hold the pipes open for ever."""
_RECONNECT_SECONDS = 1.0

_decoder: msgspec.json.Decoder[WorkerToSupervisor] = msgspec.json.Decoder(WorkerToSupervisor)
_encoder = msgspec.json.Encoder()
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Worker:
    """A process from its start, in the constructor, to its :class:`WorkerExited`, which is always the last event.

    Create it in the main thread, inside the running loop.
    """

    def __init__(
        self,
        number: int,
        spec: ModelSpec,
        socket: Path,
        cache_dir: Path,
        launch: Launch,
        post: Callable[[Event], None],
        report_cache: Callable[[CacheReport], None],
        *,
        parameters: EngineParameters = EngineParameters(),  # noqa: B008 - it is frozen
        report_tuned: Callable[[Tuned], None] | None = None,
        report_counts: Callable[[WorkerCounts], None] | None = None,
        report_missed: Callable[[int], None] = lambda _: None,
        take_spare: Callable[[], subprocess.Popen[bytes] | None] = lambda: None,
        most_ram: int | None = None,
    ) -> None:
        """
        Args:
            cache_dir: where it keeps the blocks of its SSD tier; it is there and belongs to this version alone.
            parameters: what it is to compute with.
            report_missed: is told how many times in a row it has not greeted.
            take_spare: gives a process that waits for a model, if there is one.
            report_tuned: is told what it finds to be fastest. None: it does not measure.
            most_ram: with weights of more bytes it is not started.
        """
        self.spec = spec
        self.parameters = parameters
        self._number = number
        self._socket = socket
        self._cache_dir = cache_dir
        self._launch = launch
        self._post = post
        self._report_cache = report_cache
        self._report_tuned = report_tuned
        self._report_counts = report_counts
        self._report_missed = report_missed
        self._take_spare = take_spare
        self._most_ram = most_ram
        self._budget = LatestLine()
        self._unwanted = False
        self._process: subprocess.Popen[bytes] | None = None
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._why_killed = ""
        """By us, for a fault of its own."""
        self._watches: list[asyncio.Task[None]] = []
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self, *, kill: bool) -> None:
        if self._process is None:
            self._unwanted = True
        elif self._process.returncode is None:
            # Reaped by us only, and then returncode is set: its number can't have passed to another process.
            os.kill(self._process.pid, signal.SIGKILL if kill else signal.SIGTERM)

    def set_budget(self, budget: CacheBudget) -> None:
        """Tell it what its cache may take. The last one said before it reads is what it gets to see."""
        self._budget.say(_encoder.encode(budget))

    async def _run(self) -> None:
        reason = "it was stopped before it started"
        try:
            if not self._unwanted:
                size_bytes = self._fitting_bytes()
                self._process = self._spawn()
                assert self._process.stdin is not None
                self._budget.open(self._process.stdin.fileno())
                self._post(WorkerSpawned(worker=self._number, pid=self._process.pid, size_bytes=size_bytes))
                await self._listen(self._process)
                reason = self._why_killed or explain(self._process.wait(), self._last_lines)
                self._tell_last_words(self._process.returncode)
        except (OSError, ValueError, subprocess.SubprocessError) as fault:
            reason = f"it could not be started: {fault}"
        finally:
            self._bury()
            self._post(WorkerExited(self._number, reason))

    def _tell_last_words(self, returncode: int) -> None:
        """What led to a failure, for whoever has to find it; an end that we asked for leaves no line."""
        if returncode not in (0, -signal.SIGTERM) and self._last_lines:
            engine_log.error("What the worker printed last", model_id=self.spec.model, lines=list(self._last_lines))

    def _bury(self) -> None:
        """Whatever interrupted us, no process is left."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            self._process.wait()
        self._budget.close()
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._socket.unlink(missing_ok=True)

    def _fitting_bytes(self) -> int:
        """Of its files. Raises ValueError where they are more than it may have."""
        size_bytes = _size_bytes(self.spec.files)
        if self._most_ram is not None and size_bytes > self._most_ram:
            raise ValueError(
                f"its weights take {size_bytes / _MIB:,.0f} MiB, and the max_ram_mb of its limits is "
                f"{self._most_ram / _MIB:,.0f}: raise that, or serve a smaller quantization"
            )
        return size_bytes

    def _spawn(self) -> subprocess.Popen[bytes]:
        """The spare that waits for a model, or a process of our own."""
        arguments = self._arguments()
        if (spare := self._take_spare()) is not None:
            try:
                hand_over(spare, arguments)
            except OSError as fault:
                log.warning("The spare worker could not be used", model_id=self.spec.model, reason=str(fault))
                bury(spare)
            else:
                return spare
        return spawn(self._launch, *self._launch.command, *arguments)

    def _arguments(self) -> list[str]:
        return [
            f"--socket={self._socket}",
            f"--model-id={self.spec.model}",
            f"--version={self.spec.version}",
            f"--log-level={self._launch.log_level}",
            f"--cache-dir={self._cache_dir}",
            f"--parameters={_encoder.encode(self.parameters).decode()}",
            *(["--tune"] if self._report_tuned else []),
            *self.spec.files,
        ]

    async def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """Read what the process says until it has ended."""
        assert process.stdout is not None and process.stderr is not None
        pipes = [
            asyncio.ensure_future(self._read_status(process.stdout)),
            asyncio.ensure_future(self._read_log(process.stderr)),
        ]
        try:
            await exit_of(process.pid)
            await asyncio.wait(pipes, timeout=_PIPES_SECONDS)
        finally:
            tasks = [*pipes, *self._watches]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read_status(self, pipe: IO[bytes]) -> None:
        async for line in _lines(pipe):
            try:
                message = _decoder.decode(line)
            except msgspec.MsgspecError:
                self._note_chatter(line)
                continue
            if isinstance(message, CacheReport):
                self._report_cache(message)
            elif isinstance(message, WorkerCounts):
                if self._report_counts is not None:
                    self._report_counts(message)
            elif isinstance(message, Tuned):
                if self._report_tuned is not None:
                    self._report_tuned(message)
            elif isinstance(message, WorkerStatus):
                self._take_status(message)

    def _take_status(self, status: WorkerStatus) -> None:
        self._post(WorkerReported(self._number, status))
        if status.stage is WorkerStage.READY and not self._watches:
            self._watches = [asyncio.ensure_future(self._watch_load()), asyncio.ensure_future(self._watch_life())]

    async def _read_log(self, pipe: IO[bytes]) -> None:
        async for line in _lines(pipe):
            if _is_json_object(line):
                self._launch.forward(line)
            else:
                self._note_chatter(line)

    def _note_chatter(self, line: bytes) -> None:
        """What native libraries print. It interests nobody until the worker dies."""
        text = line.decode(errors="replace").strip()
        if text:
            self._last_lines.append(text)
            engine_log.debug(text, model_id=self.spec.model)

    async def _watch_load(self) -> None:
        """Follow how many requests the worker has, through a connection on which we ask for nothing."""
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_unix_connection(self._socket)
                try:
                    await self._follow_load(reader)
                finally:
                    writer.close()
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _watch_life(self) -> None:
        """Kill it when it stands still: who waits for its answers then hears that they will not come, and is answered
        by another one."""
        await stands_still(self._socket, self._report_missed)
        log.error("A worker stands still, and is killed", model_id=self.spec.model)
        self._why_killed = "it stood still, and was killed"
        self.stop(kill=True)

    async def _follow_load(self, reader: asyncio.StreamReader) -> None:
        decoder: FrameDecoder[WorkerToGateway] = FrameDecoder(WorkerToGateway)
        try:
            while messages := await read_messages(reader, decoder):
                for message in messages:
                    if isinstance(message, WorkerLoad):
                        self._post(WorkerBusy(self._number, message.running + message.waiting))
        except ProtocolError as fault:
            log.error("A worker broke the protocol", model_id=self.spec.model, reason=str(fault))


async def _lines(pipe: IO[bytes]) -> AsyncIterator[bytes]:
    """The pipe's lines, without their newlines; one without an end is cut rather than kept growing."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    rest = b""
    try:
        while data := await reader.read(1 << 16):
            *complete, rest = (rest + data).split(b"\n")
            for line in complete:
                yield line
            if len(rest) > _LINE_BYTES:
                yield rest
                rest = b""
        if rest:
            yield rest
    finally:
        transport.close()


def _is_json_object(line: bytes) -> bool:
    if not line.startswith(b"{"):
        return False
    try:
        _object_decoder.decode(line)
    except msgspec.MsgspecError:
        return False
    return True


def _size_bytes(files: tuple[str, ...]) -> int:
    total = 0
    for file in files:
        with suppress(OSError):
            total += Path(file).stat().st_size
    return total
