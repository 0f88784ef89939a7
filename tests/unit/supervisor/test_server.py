"""The supervisor's socket, with a view that the test makes up."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from inference.protocol import (
    PROTOCOL_VERSION,
    Caches,
    Counted,
    Demand,
    FrameDecoder,
    InUse,
    ModelSpec,
    Pressure,
    Replicas,
    ReplicaState,
    ReplicaView,
    Sampled,
    Stray,
    Strays,
    Subscribe,
    Sums,
    SupervisorToGateway,
    encode_frame,
    read_messages,
)
from inference.supervisor.events import Demanded, Event, Used
from inference.supervisor.permitting import Permitting
from inference.supervisor.server import AlreadyRunning, Claim, SupervisorServer
from nopenai_site.environment import PROJECT_ROOT

SPEC = ModelSpec(version_pk=3, model="Tiny", version="1.0.0", files=("/t.gguf",))
HELLO = encode_frame([Subscribe(protocol=PROTOCOL_VERSION)])


def replicas(*reasons: str) -> Replicas:
    views = [
        ReplicaView(
            version_pk=number,
            model=f"m{number}",
            version="1.0.0",
            state=ReplicaState.COLD,
            reason=reason,
            socket=None,
            progress=0.0,
            since=0.0,
        )
        for number, reason in enumerate(reasons)
    ]
    return Replicas(replicas=tuple(views))


def caches(ram_bytes: int) -> Caches:
    return Caches(caches=(), ram_bytes=ram_bytes, ssd_bytes=0, configured=False, since=0.0)


class Serving:
    def __init__(self, path: Path) -> None:
        self.claim = Claim(path)
        self.view = replicas("first")
        self.caches = caches(1)
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.counted: asyncio.Queue[Counted] = asyncio.Queue()
        self.server = SupervisorServer(
            self.events.put_nowait,
            lambda: self.view,
            lambda: self.caches,
            sums=lambda: Sums(models=()),
            counted=self.counted.put_nowait,
            pressure=lambda: Pressure(reason=""),
            permitting=Permitting(),
        )

    def publish(self, view: Replicas) -> None:
        self.view = view
        self.server.publish_replicas()

    def publish_caches(self, view: Caches) -> None:
        self.caches = view
        self.server.publish_caches()


@pytest_asyncio.fixture
async def serving(tmp_path: Path) -> AsyncIterator[Serving]:
    serving = Serving(tmp_path / "s.sock")
    await serving.server.start(serving.claim.listen())
    yield serving
    serving.server.close()
    serving.claim.release()


class Peer:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._decoder: FrameDecoder[SupervisorToGateway] = FrameDecoder(SupervisorToGateway)

    @classmethod
    async def connect(cls, serving: Serving, hello: bytes = HELLO) -> "Peer":
        peer = cls(*await asyncio.open_unix_connection(serving.claim.path))
        peer.writer.write(hello)
        return peer

    async def read(self) -> list[SupervisorToGateway]:
        async with asyncio.timeout(10):
            return await read_messages(self.reader, self._decoder)


async def test_a_subscriber_gets_the_view_at_once_and_each_new_one(serving: Serving) -> None:
    peer = await Peer.connect(serving)
    assert await peer.read() == [replicas("first"), caches(1), Sums(models=())]
    serving.publish(replicas("second", "another"))
    assert await peer.read() == [replicas("second", "another")]
    serving.publish_caches(caches(2))
    assert await peer.read() == [caches(2)]


async def test_messages_become_events_in_their_order(serving: Serving) -> None:
    peer = await Peer.connect(serving)
    peer.writer.write(encode_frame([Demand(spec=SPEC), InUse(versions=(3, 4))]))
    assert [await serving.events.get(), await serving.events.get()] == [Demanded(SPEC), Used((3, 4))]


@pytest.mark.parametrize(
    "hello",
    [
        encode_frame([Demand(spec=SPEC)]),
        encode_frame([Subscribe(protocol=PROTOCOL_VERSION + 1)]),
        HELLO + HELLO,
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
async def test_a_peer_that_breaks_the_protocol_is_cut_off_and_others_are_not(serving: Serving, hello: bytes) -> None:
    good = await Peer.connect(serving)
    await good.read()
    bad = await Peer.connect(serving, hello)
    while await bad.read():
        pass  # what it was owed before its fault
    serving.publish(replicas("second"))
    assert await good.read() == [replicas("second")]
    assert serving.events.empty()


async def test_a_subscriber_that_does_not_read_holds_up_nobody_and_then_gets_the_newest_view(serving: Serving) -> None:
    deaf, good = await Peer.connect(serving), await Peer.connect(serving)
    await good.read()
    for number in range(300):
        serving.publish(replicas("x" * 100_000, str(number)))
        assert (await good.read())[-1] == serving.view
    received: list[SupervisorToGateway] = []
    while not received or received[-1] != serving.view:
        received += await deaf.read()
    assert len(received) < 100  # what waited was one view, not three hundred


async def test_what_a_gateway_says_to_others_reaches_them_and_those_that_come_later(serving: Serving) -> None:
    strays = Strays(route="auto", sessions=(Stray("acme/s", "m1", 5.0),))
    newer = Strays(route="auto", sessions=(Stray("acme/s", "m2", 9.0), Stray("acme/t", "m1", 8.0)))
    sampled = Sampled(sample=b"{}")
    saying, other = await Peer.connect(serving), await Peer.connect(serving)
    await saying.read()
    await other.read()
    saying.writer.write(encode_frame([strays, sampled, newer]))
    heard: list[SupervisorToGateway] = []
    while len(heard) < 3:
        heard += await other.read()
    assert heard == [strays, sampled, newer]
    later = await Peer.connect(serving)
    assert (await later.read())[-2:] == [sampled, newer]
    serving.publish(replicas("second"))
    assert await saying.read() == [replicas("second")], "it does not hear itself"


def test_a_stale_socket_of_a_dead_supervisor_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    script = (
        "import sys, os, signal; from pathlib import Path; from inference.supervisor.server import Claim;"
        "listener = Claim(Path(sys.argv[1])).listen(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(path)], cwd=PROJECT_ROOT, check=False)
    assert ended.returncode == -signal.SIGKILL and path.exists()
    claim = Claim(path)
    claim.listen().close()
    claim.release()
    assert not path.exists()


def test_a_live_supervisor_is_named(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "s.sock")
    with pytest.raises(AlreadyRunning, match=rf"process {os.getpid()}\b.*NOPENAI_DATA_DIR"):
        Claim(tmp_path / "s.sock")
    claim.release()
    Claim(tmp_path / "s.sock").release()
