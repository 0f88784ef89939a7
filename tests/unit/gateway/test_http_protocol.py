"""What one turn of the event loop writes leaves together, in order, and before the end."""

import asyncio
from typing import cast

from inference.gateway.http_protocol import GatheringTransport


class Wire:
    def __init__(self) -> None:
        self.events: list[bytes] = []
        self.closing = False

    def write(self, data: bytes) -> None:
        self.events.append(data)

    def close(self) -> None:
        self.closing = True
        self.events.append(b"<closed>")

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def get_extra_info(self, name: str) -> None: ...


def gathering() -> tuple[GatheringTransport, Wire]:
    wire = Wire()
    return GatheringTransport(cast(asyncio.Transport, wire), asyncio.get_running_loop()), wire


async def test_head_and_body_leave_in_one_piece() -> None:
    transport, wire = gathering()
    transport.write(b"head ")
    transport.write(b"body")
    assert wire.events == []
    await asyncio.sleep(0)
    transport.write(b"more")
    await asyncio.sleep(0)
    assert wire.events == [b"head body", b"more"]


async def test_what_was_written_leaves_before_the_connection_is_closed() -> None:
    transport, wire = gathering()
    transport.write(b"last")
    transport.close()
    await asyncio.sleep(0)
    assert wire.events == [b"last", b"<closed>"]


async def test_a_connection_that_was_closed_meanwhile_is_written_no_more() -> None:
    transport, wire = gathering()
    transport.write(b"late")
    wire.closing = True
    await asyncio.sleep(0)
    assert wire.events == []
