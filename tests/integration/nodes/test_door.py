"""A node's door, with real TLS over real TCP, before Unix sockets that a test listens on."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from inference.nodes import door as doors
from inference.nodes.door import Door
from inference.nodes.identity import Identity, host_name
from inference.nodes.passage import Passage
from registry.nodes.doors import Address

KEY = b"the installation's secret"
TARGET = "engine-7.sock"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest_asyncio.fixture
async def address(tmp_path: Path) -> AsyncIterator[Address]:
    """Of the door of node ``there``."""
    door = Door(tmp_path, Identity("there", KEY).server())
    yield await door.open(Address("127.0.0.1", 0))
    door.close()


@pytest_asyncio.fixture
async def behind(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[None]]]:
    """Has somebody listen behind the door."""
    servers = []

    async def listen(serve: Serve, name: str = TARGET) -> None:
        servers.append(await asyncio.start_unix_server(serve, tmp_path / name))

    yield listen
    for server in servers:
        server.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def go_in(address: Address, target: str = TARGET, *, node: str = "there", key: bytes = KEY) -> Streams:
    return await Passage(Identity("here", key)).open_streams(node, address, target)


async def test_bytes_pass_both_ways(address: Address, behind: Callable[..., Awaitable[None]]) -> None:
    await behind(echo)
    reader, writer = await go_in(address)
    sent = bytes(range(256)) * 40_000
    writer.write(sent)
    assert await reader.readexactly(len(sent)) == sent
    writer.close()


async def test_who_is_behind_may_speak_first(address: Address, behind: Callable[..., Awaitable[None]]) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    await behind(greet)
    reader, _ = await go_in(address)
    assert await reader.read() == b"hello"


async def test_a_reader_that_is_slow_holds_the_writer_back(
    address: Address, behind: Callable[..., Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "_MOST_BYTES", 64 * 1024)
    most, written, full = 200 * 1024 * 1024, 0, asyncio.Event()

    async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.transport.set_write_buffer_limits(64 * 1024)
        while written < most:
            writer.write(bytes(1024 * 1024))
            written += 1024 * 1024
            try:
                async with asyncio.timeout(1.0):
                    await writer.drain()
            except TimeoutError:
                full.set()
                await writer.drain()
        writer.close()

    await behind(pour)
    reader, _ = await go_in(address)
    async with asyncio.timeout(60):
        await full.wait()
    assert written < most
    read = 0
    while data := await reader.read(1 << 20):
        read += len(data)
    assert read == most


async def test_when_one_side_leaves_the_other_is_told(address: Address, behind: Callable[..., Awaitable[None]]) -> None:
    left = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"!")
        await reader.read()
        left.set()
        writer.close()

    await behind(wait)
    reader, writer = await go_in(address)
    assert await reader.readexactly(1) == b"!"
    writer.close()
    async with asyncio.timeout(60):
        await left.wait()


@pytest.mark.parametrize(
    "target", ["engine-8.sock", "../secret_key", "web.sock", "engine-7.sock/..", "", "x" * 1000, "engine-a.sock"]
)
async def test_nobody_is_led_elsewhere(
    address: Address, behind: Callable[..., Awaitable[None]], target: str, tmp_path: Path
) -> None:
    await behind(echo, "web.sock")
    reader, writer = await go_in(address, target)
    writer.write(b"anything")
    assert await reader.read() == b""


async def test_who_names_nobody_is_sent_away(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "_NAME_SECONDS", 0.1)
    context = Identity("here", KEY).client()
    reader, _ = await asyncio.open_connection(
        address.host, address.port, ssl=context, server_hostname=host_name("there")
    )
    assert await reader.read() == b""


class TestStrangers:
    async def test_another_secret_key_opens_no_door(self, address: Address) -> None:
        with pytest.raises(OSError, match="another secret key"):
            await go_in(address, key=b"another installation's")

    async def test_a_node_is_not_taken_for_another(self, address: Address) -> None:
        with pytest.raises(OSError, match="is not node 'elsewhere'"):
            await go_in(address, node="elsewhere")

    async def test_who_shows_no_certificate_is_not_let_in(
        self, address: Address, behind: Callable[..., Awaitable[None]]
    ) -> None:
        let_in = []

        async def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            let_in.append(1)
            writer.close()

        await behind(note)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
        writer.write(TARGET.encode() + b"\n")
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        assert not let_in

    async def test_a_certificate_of_another_installation_is_not_let_in(self, address: Address) -> None:
        context = Identity("here", b"another installation's").client()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
        writer.write(TARGET.encode() + b"\n")
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)

    async def test_what_is_no_tls_is_not_let_in(self, address: Address) -> None:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(TARGET.encode() + b"\n" * 100)
        assert await reader.read() in (b"", b"\x15\x03\x03\x00\x02\x02F")  # at most a TLS alert

    async def test_where_nobody_listens_it_is_said(self) -> None:
        with pytest.raises(OSError, match="Connect call failed"):
            await go_in(Address("127.0.0.1", 1))
