"""``python -m inference.engine``: serve one model on a Unix socket until told to stop.

With ``--spare`` alone it gets ready for that, and waits until it is told the rest.

The supervisor is told on standard output (WorkerStatus, CacheReport, WorkerCounts, Tuned) and heard on standard input
(CacheBudget), one JSON object a line. Standard error carries logs, one JSON object a line, too.
"""

import argparse
import asyncio
import ctypes
import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec
import structlog
import uvloop

from inference.cells import BATCH_TOKENS, cells
from inference.engine.embedding_engine import EmbeddingEngine
from inference.engine.embedding_inputs import EmbeddingInputs
from inference.engine.embeddings import embeds_only
from inference.engine.engine import Engine
from inference.engine.jobs import Emit
from inference.engine.llama import LlamaError, Model, initialise, pulse, silence_native_log
from inference.engine.news import News, say
from inference.engine.prompts import Prompts
from inference.engine.sequences import Limits
from inference.engine.server import WorkerServer
from inference.engine.template import TemplateFault
from inference.protocol import (
    PROTOCOL_VERSION,
    CacheBudget,
    EngineParameters,
    Hello,
    Tuned,
    WorkerStage,
    WorkerStatus,
)

log = structlog.get_logger(module="engine")

LONG_SLOTS = 8

_SWITCH_INTERVAL_SECONDS = 0.0005
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE_BYTES = 4 * 1024 * 1024
_tasks: set[asyncio.Task[None]] = set()
_LEVELS = {"DEBUG": 10, "INFO": 20, "WARN": 30, "ERROR": 40, "FATAL": 50}


def main() -> int:
    _die_with_parent()
    arguments = _parse_arguments(_told() if sys.argv[1:] == ["--spare"] else sys.argv[1:])
    _call_us(f"engine {arguments.model_id}")
    _configure_log(arguments.log_level)
    _return_large_memory()
    # The engine's thread holds the interpreter in slices this long at most, so that tokens leave without delay.
    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    log_native = structlog.get_logger(module="llama.cpp")
    silence_native_log(lambda level, text: log_native.log(_LEVELS[level], text), arguments.log_level == "DEBUG")
    try:
        uvloop.run(_serve(arguments))
    except (LlamaError, TemplateFault) as fault:
        say(WorkerStatus(stage=WorkerStage.FAILED, reason=str(fault)))
        return 1
    return 0


async def _serve(arguments: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    stopping = _told_to_stop(loop)
    began = time.monotonic()
    parameters: EngineParameters = arguments.parameters
    threads = _threads(parameters)
    say(WorkerStatus(stage=WorkerStage.LOADING))
    model = Model(arguments.files, _Progress(), parameters)
    say(WorkerStatus(stage=WorkerStage.WARMING, progress=1.0))
    limits = _limits(model.trained_context_tokens, parameters)
    writes_text = not embeds_only(model)
    server = WorkerServer(
        _hello(arguments, limits),
        prompts=Prompts(model, limits.context_tokens) if writes_text else None,
        embedding_inputs=EmbeddingInputs(model, limits.context_tokens),
        report=News().say,
        stopped=pulse.stopped,
    )
    engine = (
        _engine(arguments, model, limits, threads, server.emit, loop)
        if writes_text
        else EmbeddingEngine(model, limits.context_tokens, threads, server.emit)
    )
    engine.start()
    await _hear_budgets(engine.set_cache_budget)
    listener = await server.listen(engine, arguments.socket)
    say(WorkerStatus(stage=WorkerStage.READY, progress=1.0))
    log.info(
        "Model loaded",
        model_id=arguments.model_id,
        version=arguments.version,
        seconds=round(time.monotonic() - began, 3),
        context_tokens=limits.context_tokens,
        sequences=limits.lanes,
        threads=threads,
        parameters=msgspec.to_builtins(parameters),
    )
    await stopping.wait()
    listener.close()
    engine.stop()
    server.report_counts()
    arguments.socket.unlink(missing_ok=True)


def _told_to_stop(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    stopping = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    return stopping


def _hello(arguments: argparse.Namespace, limits: Limits) -> Hello:
    return Hello(
        protocol=PROTOCOL_VERSION,
        model=arguments.model_id,
        version=arguments.version,
        context_tokens=limits.context_tokens,
        max_sequences=limits.lanes,
        kv_tokens=limits.lanes * limits.lane_tokens + limits.long_tokens,
        pid=os.getpid(),
    )


def _engine(
    arguments: argparse.Namespace,
    model: Model,
    limits: Limits,
    threads: int,
    emit: Emit,
    loop: asyncio.AbstractEventLoop,
) -> Engine:
    return Engine(
        model,
        limits,
        threads,
        emit,
        files=tuple(arguments.files),
        cache_directory=arguments.cache_dir,
        on_tuned=partial(_report_in, loop) if arguments.tune else None,
    )


def _threads(parameters: EngineParameters) -> int:
    """As many as there are processors at most: threads that wait for each other's turn compute 100 times as slowly."""
    processors = len(os.sched_getaffinity(0))
    if (parameters.threads or 0) > processors:
        log.warning("There are fewer processors than threads asked for", threads=parameters.threads, used=processors)
    return min(parameters.threads or processors, processors)


def _limits(trained_context_tokens: int, parameters: EngineParameters) -> Limits:
    chosen = cells(trained_context_tokens, parameters)
    own = Limits(
        lanes=chosen.lanes,
        lane_tokens=chosen.lane_tokens,
        long_slots=LONG_SLOTS,
        long_tokens=chosen.long_tokens,
        batch_tokens=parameters.batch_tokens or BATCH_TOKENS,
    )
    return replace(own, prefill_beside_decode=parameters.prefill_beside_decode or own.prefill_beside_decode)


def _parameters(text: str) -> EngineParameters:
    """For argparse, which shows what a ValueError says."""
    return msgspec.json.decode(text, type=EngineParameters)


class _Progress:
    """Passes load progress on, at most every 100 ms: llama.cpp reports every tensor."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, fraction: float) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 0.1
            say(WorkerStatus(stage=WorkerStage.LOADING, progress=fraction))


async def _hear_budgets(set_budget: Callable[[CacheBudget], None]) -> None:
    """Pass on what the supervisor says on standard input, from now on. Started by hand there is nobody to hear."""
    if not stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        return
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    task = loop.create_task(_hear(reader, set_budget))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def _hear(reader: asyncio.StreamReader, set_budget: Callable[[CacheBudget], None]) -> None:
    while line := await reader.readline():
        try:
            set_budget(msgspec.json.decode(line, type=CacheBudget))
        except msgspec.MsgspecError as fault:
            log.error("Not a budget for the cache", reason=str(fault))


def _report_in(loop: asyncio.AbstractEventLoop, tuned: Tuned) -> None:
    """From the engine's thread: lines are written by one thread only."""
    loop.call_soon_threadsafe(say, tuned)


def _told() -> list[str]:
    """The arguments, once there is a model to serve, from one line of standard input: a JSON list.

    What follows that line is for others, so it is read byte by byte. Without a line nobody needs us.
    """
    _call_us("engine spare")
    initialise()
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(sys.stdin.fileno(), 1)
        if not byte:
            sys.exit(0)
        line += byte
    return msgspec.json.decode(line, type=list[str])


def _parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m inference.engine", description="Serve one model on a Unix socket.")
    parser.add_argument("--socket", type=Path, required=True, help="where to listen")
    parser.add_argument("--model-id", required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--log-level", choices=list(_LEVELS), default="INFO")
    parser.add_argument(
        "--parameters",
        type=_parameters,
        default=EngineParameters(),
        metavar="JSON",
        help='of llama.cpp, such as {"threads": 2, "context_tokens": 4096}; the rest is chosen here',
    )
    parser.add_argument(
        "--tune", action="store_true", help="when there is nothing to do, measure what is fastest and say it"
    )
    parser.add_argument(
        "--cache-dir", type=Path, help="where the SSD tier of the KV cache lives; default: there is none"
    )
    parser.add_argument("files", nargs="+", help="the GGUF, its shards in order")
    return parser.parse_args(arguments)


def _die_with_parent() -> None:
    """Have the kernel kill us when the supervisor ends, however it ends."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        sys.exit(1)


def _call_us(name: str) -> None:
    """In ``ps -o comm`` and ``top``, which show 15 bytes: a spare's command line does not say what it came to serve."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode()[:15])


def _return_large_memory() -> None:
    """Have the C library give large buffers back to the system when they are freed. By itself it learns to keep what is
    allocated anew and again: 33 MB stayed after a measurement, in a heap that can't be trimmed, that of a thread."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # GNU's
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        set_option(_M_TRIM_THRESHOLD, 4 * _LARGE_BYTES)


def _configure_log(level: str) -> None:
    def rename_level(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        names = {"warning": "WARN", "critical": "FATAL"}
        event["level"] = names.get(event["level"], event["level"].upper())
        return event

    def stamp(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        event["timestamp"] = now.replace("+00:00", "Z")  # as the other processes write it
        return event

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            rename_level,
            stamp,
            structlog.processors.EventRenamer("message"),
            # Without local variables: among them are the keys of partitions.
            structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


if __name__ == "__main__":
    sys.exit(main())
