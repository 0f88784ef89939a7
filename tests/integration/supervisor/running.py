"""A node with real processes: its directories, its supervisor, a gateway that listens to it."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from django.core.exceptions import ObjectDoesNotExist
from django.db import connection

from inference.protocol import (
    PROTOCOL_VERSION,
    Caches,
    CacheView,
    Demand,
    FrameDecoder,
    ModelSpec,
    Replicas,
    ReplicaState,
    ReplicaView,
    Subscribe,
    SupervisorToGateway,
    encode_frame,
    read_messages,
)
from nopenai_site.environment import PROJECT_ROOT, load
from registry.models import Replica, Version
from tests.gguf_files import write_model
from tests.waiting import PATIENCE_SECONDS, until_answer

T = TypeVar("T")


class Gateway:
    """What a gateway sees of a supervisor."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self._decoder: FrameDecoder[SupervisorToGateway] = FrameDecoder(SupervisorToGateway)
        self.caches: list[Caches] = []
        """Every view of the caches, in the order in which it was published."""
        self.last: dict[int, ReplicaView] = {}
        """The newest that was read of each replica."""
        self.seen: list[ReplicaView] = []
        """Every state of every replica, in the order in which it was published."""

    @classmethod
    async def connect(cls, socket: Path) -> "Gateway":
        reader, writer = await asyncio.open_unix_connection(socket)
        gateway = cls(reader, writer)
        gateway.send(Subscribe(protocol=PROTOCOL_VERSION))
        return gateway

    def send(self, *messages: object) -> None:
        self.writer.write(encode_frame(messages))

    def demand(self, spec: ModelSpec) -> None:
        self.send(Demand(spec=spec))

    async def loaded(self, spec: ModelSpec) -> str:
        """Demand a version; the socket of its worker when that is ready."""
        self.demand(spec)
        ready = await self.until(spec, ReplicaState.READY)
        assert ready.socket is not None
        return ready.socket

    async def until(self, spec: ModelSpec, *states: ReplicaState) -> ReplicaView:
        """Read views until the replica is in one of the states."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                for replicas in await self.read():
                    for replica in replicas.replicas:
                        self.last[replica.version_pk] = replica
                        if replica.version_pk == spec.version_pk:
                            self.seen.append(replica)
                            if replica.state in states:
                                return replica

    async def until_cached(self, spec: ModelSpec, true: Callable[[CacheView], bool]) -> CacheView:
        """Read until a version's cache is as the test wants it."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                for cache in self.caches[-1].caches if self.caches else ():
                    if (cache.model, cache.version) == (spec.model, spec.version) and true(cache):
                        return cache
                await self._read()

    async def until_caches(self, true: Callable[[Caches], bool]) -> Caches:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not self.caches or not true(self.caches[-1]):
                await self._read()
        return self.caches[-1]

    async def read(self) -> list[Replicas]:
        """The next views of the replicas; those of the caches are kept aside."""
        while True:
            if views := await self._read():
                return views

    async def _read(self) -> list[Replicas]:
        messages = await read_messages(self._reader, self._decoder)
        if not messages:
            raise EOFError("the supervisor closed the connection")
        self.caches += [message for message in messages if isinstance(message, Caches)]
        return [message for message in messages if isinstance(message, Replicas)]


class NodeProcess:
    """One supervisor's process, and what it logs."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.models_dir = directory / "models"
        self.models_dir.mkdir(exist_ok=True)
        self.environment = {
            **os.environ,
            **environment,
            "NOPENAI_DATA_DIR": str(directory / "data"),
            "NOPENAI_MODELS_DIR": str(self.models_dir),
            "NOPENAI_STARTER_MODEL": "0",
            "NOPENAI_NODE_NAME": "here",
            "NOPENAI_LOG_LEVEL": "DEBUG",
        }
        self.socket = load(self.environment).supervisor_socket
        self.log: list[dict[str, Any]] = []
        self.process: asyncio.subprocess.Process
        self._logged = asyncio.Condition()
        self._reading: asyncio.Task[None]

    async def start(self, *stub: str, **policy: float) -> None:
        """Until it listens."""
        await self.launch(*stub, **policy)
        await self.logged("Supervisor started")

    async def launch(self, *stub: str, **policy: float) -> None:
        arguments = json.dumps({"stub": stub, "policy": policy})
        command = (sys.executable, "-m", "tests.integration.supervisor.node", arguments)
        self.process = await asyncio.create_subprocess_exec(
            *command, cwd=PROJECT_ROOT, env=self.environment, stderr=asyncio.subprocess.PIPE
        )
        self.log = []
        self._reading = asyncio.create_task(self._read_log())

    async def _read_log(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            print(line.decode().rstrip())  # pytest shows it when the test fails
            async with self._logged:
                self.log.append(json.loads(line))
                self._logged.notify_all()
        async with self._logged:
            self._logged.notify_all()

    async def logged(self, start: str) -> dict[str, Any]:
        """The first log record whose message starts so, also one from before the call."""

        def find() -> dict[str, Any] | None:
            return next((record for record in self.log if record["message"].startswith(start)), None)

        async with asyncio.timeout(PATIENCE_SECONDS), self._logged:
            await self._logged.wait_for(lambda: find() is not None or self._reading.done())
        found = find()
        assert found is not None, f"it ended without logging {start!r}"
        return found

    async def gateway(self) -> Gateway:
        return await Gateway.connect(self.socket)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return await self.ended()

    async def stop_if_it_runs(self) -> None:
        if hasattr(self, "process") and self.process.returncode is None:
            await self.stop(signal.SIGKILL)

    async def ended(self) -> int:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._reading
            return await self.process.wait()

    def drop_model(self, name: str) -> Path:
        return write_model(self.models_dir / f"{name}.gguf", name=name)

    async def discovered(self, name: str) -> ModelSpec:
        """Drop a model in and wait until it is in SQL."""
        self.drop_model(name)
        await self.logged(f"Model discovered: {name}")
        version = await in_sql(lambda: Version.objects.get(model__name=name))
        return ModelSpec(version_pk=version.pk, model=name, version=version.number, files=tuple(version.files))


async def in_sql(query: Callable[[], T]) -> T:
    """The result of a query, made in a thread and a session of its own."""

    def ask() -> T:
        try:
            return query()
        finally:
            connection.close()

    return await asyncio.to_thread(ask)


async def eventually(check: Callable[[], bool]) -> None:
    """SQL announces no observations, so tests ask; a row that is not there yet may come."""

    def ask() -> bool:
        try:
            return check()
        except ObjectDoesNotExist:
            return False

    await until_answer(lambda: in_sql(ask))


def replica_row(spec: ModelSpec) -> Replica:
    return Replica.objects.get(version_id=spec.version_pk, node__name="here")


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
