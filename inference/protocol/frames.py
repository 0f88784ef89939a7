"""How messages travel over a Unix socket.

A *frame* is a 4-byte big-endian length followed by a MessagePack array of messages, so that what one decode step
produced for sixteen streams travels in one write.
"""

import asyncio
import struct
from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

PROTOCOL_VERSION = 6

MAX_FRAME_BYTES = 64 * 1024 * 1024
"""A frame larger than this is a fault of the peer: the largest honest one is a request body's worth of messages."""

M = TypeVar("M")

_LENGTH = struct.Struct(">I")

_encoder = msgspec.msgpack.Encoder()


class ProtocolError(Exception):
    """The peer sent what this version of the protocol does not know; the connection is of no further use."""


def encode_frame(messages: Sequence[object]) -> bytes:
    """Messages as one frame, ready for a single write."""
    body = _encoder.encode(messages)
    return _LENGTH.pack(len(body)) + body


class FrameDecoder(Generic[M]):
    """Cuts a byte stream into frames of messages of one union type, whatever the sizes of the pieces it arrives in."""

    def __init__(self, union: object) -> None:
        self._decoder = msgspec.msgpack.Decoder(list[union])  # type: ignore[valid-type]
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[M]:
        """All messages completed by ``data``.

        Raises:
            ProtocolError: on an oversized frame or a message that is not of the union.
        """
        self._buffer += data
        messages: list[M] = []
        offset = 0
        while len(self._buffer) - offset >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, offset)
            if length > MAX_FRAME_BYTES:
                raise ProtocolError(f"a frame of {length} bytes is larger than {MAX_FRAME_BYTES}")
            end = offset + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            try:
                messages += self._decoder.decode(memoryview(self._buffer)[offset + _LENGTH.size : end])
            except msgspec.MsgspecError as fault:
                raise ProtocolError(f"not a message of protocol version {PROTOCOL_VERSION}: {fault}") from fault
            offset = end
        del self._buffer[:offset]
        return messages


async def read_messages(reader: asyncio.StreamReader, decoder: FrameDecoder[M]) -> list[M]:
    """The next messages of a stream; an empty list at its end (also amid a frame: a killed peer can't finish it).

    Raises:
        ProtocolError: as :meth:`FrameDecoder.feed`.
    """
    while True:
        data = await reader.read(256 * 1024)
        if not data:
            return []
        if messages := decoder.feed(data):
            return messages
