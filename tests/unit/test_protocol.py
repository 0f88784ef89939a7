"""Frames of messages, and the map of who tells whom."""

import struct
import typing
from types import UnionType

import msgspec
import pytest

from inference import protocol
from inference.protocol import (
    MAX_FRAME_BYTES,
    Cancel,
    Embed,
    FrameDecoder,
    GatewayToWorker,
    ProtocolError,
    encode_frame,
)

SENT = [Cancel(id=1), Embed(id=2, request_id="r", inputs=("text", (1, 2, 3))), Cancel(id=3)]


@pytest.mark.parametrize("piece_bytes", [1, 3, 1000])
def test_messages_arrive_in_order_whatever_pieces_their_frames_come_in(piece_bytes: int) -> None:
    stream = encode_frame(SENT[:2]) + encode_frame(SENT[2:])
    decoder = FrameDecoder[GatewayToWorker](GatewayToWorker)
    pieces = [stream[start : start + piece_bytes] for start in range(0, len(stream), piece_bytes)]
    assert [message for piece in pieces for message in decoder.feed(piece)] == SENT


def test_a_frame_that_is_too_large_is_refused_by_its_length_alone() -> None:
    decoder = FrameDecoder[GatewayToWorker](GatewayToWorker)
    with pytest.raises(ProtocolError, match="larger than"):
        decoder.feed(struct.pack(">I", MAX_FRAME_BYTES + 1))


def test_a_message_of_another_channel_is_refused() -> None:
    decoder = FrameDecoder[GatewayToWorker](GatewayToWorker)
    with pytest.raises(ProtocolError, match="not a message of protocol version"):
        decoder.feed(encode_frame([protocol.Subscribe(protocol=protocol.PROTOCOL_VERSION)]))


def test_the_map_of_messages_names_each_of_every_channel_with_its_file() -> None:
    channels = [value for value in vars(protocol).values() if isinstance(value, UnionType)]
    assert len(channels) == 8, "four pairs of processes; of one pair permits, both ways, and what is relayed"
    assert protocol.__doc__
    for message in {message for channel in channels for message in typing.get_args(channel)}:
        assert issubclass(message, msgspec.Struct)
        assert message.__name__ in protocol.__doc__
        assert f"{message.__module__.rpartition('.')[2]}.py" in protocol.__doc__
