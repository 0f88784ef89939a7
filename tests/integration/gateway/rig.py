"""A gateway with real sockets on both sides, whose supervisor a test plays by hand."""

import asyncio
import contextlib
import json
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import uvicorn

from inference.gateway.app import Gateway, GatewayConfig
from inference.gateway.arrivals import ArrivalFeed
from inference.gateway.http_protocol import HttpProtocol
from inference.gateway.leases import Answered, Upkeep
from inference.gateway.standings import Reached
from inference.gateway.state import DatabaseContact, GatewayState, Snapshot, accounts_of, permits_of
from inference.gateway.usage import Counts
from inference.nodes.passage import Passage
from inference.protocol import (
    CacheBudget,
    Caches,
    Counted,
    Demand,
    FrameDecoder,
    GatewayToSupervisor,
    InUse,
    ModelSpec,
    NodeView,
    Pressure,
    Relayed,
    Replicas,
    ReplicaState,
    ReplicaView,
    Subscribe,
    Sums,
    WorkerLoad,
    WorkerStage,
    WorkerStatus,
    WorkerToGateway,
    encode_frame,
    read_messages,
)
from inference.supervisor.permitting import Permitting
from inference.traces.sampling import Sampler
from inference.traces.spans import Sink
from nopenai_site.environment import PROJECT_ROOT
from quotas.callers import Caller
from quotas.journal import JournalFull
from quotas.ledger import Ask, Balance
from quotas.limits import ModelLimits
from quotas.treasury import Leased
from quotas.usage.counts import UsageCounts
from registry.backends.values import Backend
from registry.catalogue import Catalogue, Model, NodeEntry
from routing.config import Routing
from tests.waiting import PATIENCE_SECONDS, until


class GivenSnapshot:
    """Stands for the snapshot's thread: a test says what the registry holds."""

    def __init__(self, state: GatewayState, models: tuple[Model, ...], callers: dict[str, Caller]) -> None:
        self._state = state
        self._models = models
        self._callers = callers
        self.limits: dict[str, ModelLimits] = {}
        self.emergency = ""
        self.routing = Routing()
        self.backends: dict[int, Backend] = {}
        self.nodes: dict[str, NodeEntry] = {}
        self.usage: dict[str, int] = {}
        self.woken = 0

    def start(self) -> None:
        self.show(*self._models)

    def limit(self, **limits: ModelLimits) -> None:
        """By model: these are all that there are."""
        self.limits = limits
        self.show(*self._models)

    def configure(self, routing: Routing) -> None:
        self.routing = routing
        self.show(*self._models)

    def connect(self, *backends: Backend) -> None:
        """These are all that there are elsewhere."""
        self.backends = {backend.version_pk: backend for backend in backends}
        self.show(*self._models)

    def join(self, *nodes: NodeEntry) -> None:
        """These are all other nodes that there are."""
        self.nodes = {node.name: node for node in nodes}
        self.show(*self._models)

    def declare_emergency(self, reason: str) -> None:
        self.emergency = reason
        self.show(*self._models)

    def show(self, *models: Model, revision: int = 1) -> None:
        default = next((model for model in models if model.is_default), None)
        catalogue = Catalogue(revision=revision, models={model.id: model for model in models}, default=default)
        self._state.accept_contact(DatabaseContact(last=time.time()))
        self._state.accept_snapshot(
            Snapshot(
                catalogue=catalogue,
                callers=self._callers,
                limits=self.limits,
                accounts=accounts_of(self.limits, self._callers),
                permits=permits_of(self.limits, self._callers),
                routing=self.routing,
                backends=self.backends,
                nodes=self.nodes,
                emergency=self.emergency,
                use_counts={},
                loaded_at=time.time(),
            )
        )

    async def stop(self) -> None:
        pass

    def wake(self) -> None:
        self.woken += 1

    def hang_up(self) -> None:
        pass

    def add_use_counts(self, counts: dict[str, int]) -> None:
        for model, count in counts.items():
            self.usage[model] = self.usage.get(model, 0) + count


class GivenLeases:
    """Stands for SQL: leases what there is."""

    def __init__(self) -> None:
        self.taken: dict[tuple[str, int], int] = {}
        """What is leased, by the account's key and the window's start."""
        self.away = False
        self.journal_full = False
        self.reached_levels: list[Reached] = []
        self.asked = 0
        self._leases: dict[int, tuple[str, int]] = {}
        self._granted: dict[int, int] = {}
        self._answered: Answered

    def start(self, answered: Answered) -> None:
        self._answered = answered

    def ask(self, asks: Sequence[Ask]) -> None:
        for ask in asks:
            self.asked += 1
            asyncio.get_running_loop().call_soon(self._answered.leased, ask, None if self.away else self._lease(ask))

    def opened(self, lease: int) -> None:
        if self.journal_full:
            raise JournalFull

    def charge(self, balances: Iterable[Balance]) -> None:
        pass

    def reached(self, reached: Reached) -> None:
        self.reached_levels.append(reached)

    def keep_up(self, upkeep: Upkeep) -> None:
        for lease, holding in upkeep.told.items():
            self.taken[self._leases[lease]] -= self._granted[lease] - holding.granted
            self._granted[lease] = holding.granted
            self._answered.told({lease: self.taken[self._leases[lease]]})

    async def stop(self) -> None:
        pass

    def _lease(self, ask: Ask) -> Leased:
        account, window = ask.balance.account, ask.balance.window
        key = account.key, window.starts_at
        taken = self.taken.get(key, 0)
        amount = max(0, min(account.limit - taken, max(ask.need, ask.balance.part)))
        self.taken[key] = taken + amount
        lease = ask.balance.lease or len(self._leases) + 1
        self._leases[lease] = key
        self._granted[lease] = self._granted.get(lease, 0) + amount
        return Leased(amount, max(0, account.limit - taken - amount), lease)


class GivenUsage:
    """Stands for SQL: keeps what was counted."""

    def __init__(self) -> None:
        self.counts: Counts = {}

    def start(self) -> None:
        pass

    def write(self, counts: Counts) -> None:
        for key, each in counts.items():
            self.counts.setdefault(key, UsageCounts()).add(each)

    async def stop(self) -> None:
        pass


class ScriptedSupervisor:
    """The supervisor's socket, in the hands of a test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.view: dict[int, ReplicaView] = {}
        self.about = NodeView()
        self.caches: Caches | None = None
        self.sums = Sums(models=())
        self.counted: asyncio.Queue[Counted] = asyncio.Queue()
        self.relayed: asyncio.Queue[Relayed] = asyncio.Queue()
        self.demanded: asyncio.Queue[ModelSpec] = asyncio.Queue()
        self.in_use: asyncio.Queue[tuple[int, ...]] = asyncio.Queue()
        self.on_demand: Callable[[ModelSpec], None] = lambda spec: None
        self.permitting: Permitting
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self.permitting = Permitting()
        self.permitting.office.opened()
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.permitting.close()
        for writer in list(self._writers):
            writer.close()
        await self._server.wait_closed()
        self.path.unlink(missing_ok=True)

    @property
    def has_gateway(self) -> bool:
        """A gateway can be connected some moments before its connection is taken here."""
        return bool(self._writers)

    def publish(self, *replicas: ReplicaView) -> None:
        self.view |= {replica.version_pk: replica for replica in replicas}
        for writer in self._writers:
            writer.write(self._frame())

    def describe(self, about: NodeView) -> None:
        """Say it of the node."""
        self.about = about
        self.publish()

    def publish_caches(self, caches: Caches) -> None:
        self.caches = caches
        for writer in self._writers:
            writer.write(self._frame())

    def relay(self, message: Relayed) -> None:
        """As if another gateway had said it."""
        for writer in self._writers:
            writer.write(encode_frame([message]))

    def press(self, reason: str) -> None:
        for writer in self._writers:
            writer.write(encode_frame([Pressure(reason=reason)]))

    def publish_sums(self, sums: Sums) -> None:
        self.sums = sums
        for writer in self._writers:
            writer.write(self._frame())

    def _frame(self) -> bytes:
        views: list[Replicas | Caches | Sums] = [
            Replicas(replicas=tuple(self.view.values()), node=self.about),
            self.sums,
        ]
        return encode_frame(views if self.caches is None else [*views, self.caches])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        writer.write(self._frame())
        gateway = self.permitting.connected(lambda answer: writer.write(encode_frame([answer])))
        decoder: FrameDecoder[GatewayToSupervisor] = FrameDecoder(GatewayToSupervisor)
        with contextlib.suppress(ConnectionError):
            while messages := await read_messages(reader, decoder):
                for message in messages:
                    self._take(gateway, message)
        self.permitting.disconnected(gateway)
        self._writers.discard(writer)
        writer.close()

    def _take(self, gateway: int, message: GatewayToSupervisor) -> None:
        if isinstance(message, Demand):
            self.demanded.put_nowait(message.spec)
            self.on_demand(message.spec)
        elif isinstance(message, InUse):
            self.in_use.put_nowait(message.versions)
        elif isinstance(message, Counted):
            self.counted.put_nowait(message)
        elif isinstance(message, Relayed):
            self.relayed.put_nowait(message)
        elif not isinstance(message, Subscribe):
            self.permitting.received(gateway, message)


def a_view(model: Model, state: ReplicaState, **changes: Any) -> ReplicaView:
    assert model.promoted is not None
    fields: dict[str, Any] = {
        "version_pk": model.promoted.pk,
        "model": model.id,
        "version": model.promoted.version,
        "state": state,
        "reason": "",
        "socket": None,
        "progress": 0.0,
        "since": time.time(),
        "node": "here",
    }
    return ReplicaView(**(fields | changes))


class StubProcess:
    """A stub worker and the view of it."""

    def __init__(self, process: asyncio.subprocess.Process, model: Model, path: Path) -> None:
        self.process = process
        self.view = a_view(model, ReplicaState.READY, socket=str(path), progress=1.0)

    def set_cache_budget(self, ram_bytes: int) -> None:
        """As its supervisor would; the worker takes note of it some moments later."""
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode(CacheBudget(ram_bytes=ram_bytes, ssd_bytes=0)) + b"\n")

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    @asynccontextmanager
    async def watched(self) -> AsyncIterator["LoadWatch"]:
        assert self.view.socket is not None
        reader, writer = await asyncio.open_unix_connection(self.view.socket)
        try:
            yield LoadWatch(reader)
        finally:
            writer.close()


class LoadWatch:
    """How many requests a stub works on, as it tells everyone who is connected."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._decoder: FrameDecoder[WorkerToGateway] = FrameDecoder(WorkerToGateway)

    async def until(self, running: int) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                for message in await read_messages(self._reader, self._decoder):
                    if isinstance(message, WorkerLoad) and message.running == running:
                        return


class Rig:
    """A gateway on a port of its own, its scripted supervisor, and stub workers."""

    def __init__(
        self,
        directory: Path,
        models: tuple[Model, ...],
        callers: dict[str, Caller],
        *,
        arrivals: ArrivalFeed | None = None,
        sampler: Sampler | None = None,
        spans: Sink | None = None,
        passage: Passage | None = None,
        **config: Any,
    ) -> None:
        self.directory = directory
        self.supervisor = ScriptedSupervisor(directory / "supervisor.sock")
        self.feed: GivenSnapshot
        self.workers: list[StubProcess] = []
        settings: dict[str, Any] = {
            "node_name": "here",
            "supervisor_socket": self.supervisor.path,
            "web_socket": directory / "web.sock",
            "require_api_key": False,
        }
        self.leases = GivenLeases()
        self.usage = GivenUsage()
        self.gateway = Gateway(
            GatewayConfig(**(settings | config)),
            self._feed_of(models, callers),
            self.leases,
            self.usage,
            arrivals,
            sampler,
            spans,
            passage,
        )
        self.client: aiohttp.ClientSession
        self.port = 0
        self._server: uvicorn.Server
        self._serving: asyncio.Task[None]

    def _feed_of(
        self, models: tuple[Model, ...], callers: dict[str, Caller]
    ) -> Callable[[GatewayState], GivenSnapshot]:
        def make(state: GatewayState) -> GivenSnapshot:
            self.feed = GivenSnapshot(state, models, callers)
            return self.feed

        return make

    async def start(self, graceful_seconds: float = 1.0) -> None:
        await self.supervisor.start()
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self.gateway,
            http=HttpProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=graceful_seconds,  # type: ignore[arg-type]
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        self.client = aiohttp.ClientSession(f"http://127.0.0.1:{self.port}")
        await until(lambda: self.gateway.nodes.own.connected and self.supervisor.has_gateway)

    async def stop(self) -> None:
        await self.client.close()
        await self.shut_down()
        for worker in self.workers:
            await worker.kill()
        await self.supervisor.stop()

    async def shut_down(self) -> None:
        """As on SIGTERM."""
        self._server.should_exit = True
        await self._serving

    async def until_closed(self) -> None:
        """It has been told to end, and lets nobody in any more."""
        await until(lambda: not any(server.is_serving() for server in self._server.servers))

    async def worker(self, model: Model, *arguments: str, ready: bool = True) -> StubProcess:
        """A stub worker of a model, which the supervisor (if ``ready``) then announces."""
        worker = await self.process(model, self.directory, *arguments)
        if ready:
            await self.announce(worker.view)
        return worker

    async def process(self, model: Model, directory: Path, *arguments: str) -> StubProcess:
        """A stub worker of a model that is ready, with its socket in that directory."""
        path = directory / f"engine-{len(self.workers)}.sock"
        command = ("-m", "tests.stub_worker", "--socket", str(path), "--model-id", model.id, "--version", "1.0.0")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *command, *arguments, "file.gguf"),
            cwd=PROJECT_ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        worker = StubProcess(process, model, path)
        self.workers.append(worker)
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for line in process.stdout:
                if msgspec.json.decode(line, type=WorkerStatus).stage is WorkerStage.READY:
                    break
        return worker

    async def caching_worker(self, model: Model, ram_bytes: int = 1_000_000) -> StubProcess:
        """A stub worker that keeps prompts, once the gateway has heard of its budget."""
        worker = await self.worker(model)
        await until(lambda: self.gateway.workers.connected(worker.view) is not None)
        connection = self.gateway.workers.connected(worker.view)
        assert connection is not None
        worker.set_cache_budget(ram_bytes)
        await until(lambda: connection.cache is not None and connection.cache.ram.budget_bytes == ram_bytes)
        return worker

    async def announce(self, view: ReplicaView) -> None:
        self.supervisor.publish(view)
        await until(lambda: self.gateway.nodes.view.get(view.version_pk) == view)

    async def chat(self, content: str = "Hello!", **fields: Any) -> tuple[aiohttp.ClientResponse, Any]:
        """A chat's answer and its JSON."""
        async with self.chatting(content, **fields) as response:
            return response, await response.json()

    def chatting(self, content: str = "Hello!", **fields: Any) -> Any:
        body = {"messages": [{"role": "user", "content": content}], **fields}
        return self.client.post("/v1/chat/completions", json=body)

    async def streamed(self, content: str = "Hello!", **fields: Any) -> list[Any]:
        """A chat's events."""
        async with self.chatting(content, stream=True, **fields) as response:
            assert response.status == 200, await response.text()
            return list(events(await response.read()))


class _Server(uvicorn.Server):
    """Leaves pytest's signal handlers alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def events(raw: bytes) -> Iterator[Any]:
    for line in raw.decode().split("\n\n"):
        if line:
            data = line.removeprefix("data: ")
            yield data if data == "[DONE]" else json.loads(data)


def text_of(chunks: list[Any]) -> str:
    return "".join(
        choice["delta"].get("content", "") for chunk in chunks if "choices" in chunk for choice in chunk["choices"]
    )
