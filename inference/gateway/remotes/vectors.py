"""A backend's embeddings → a worker's message. Pure."""

import array
import binascii
import sys

import msgspec

from inference.gateway.remotes.chunks import Usage
from inference.gateway.remotes.events import Garbled
from inference.protocol import Embedded


class _Row(msgspec.Struct, frozen=True):
    embedding: list[float] | str
    index: int | None = None


class _Answer(msgspec.Struct, frozen=True):
    data: list[_Row]
    usage: Usage | None = None


_decoder = msgspec.json.Decoder(_Answer)


def embedded(body: bytes, request_id: int, inputs: int, bound: int) -> tuple[Embedded, bool]:
    """The vectors in the order of their inputs, and whether the backend has told its usage; else it is ``bound``.

    Raises:
        Garbled: they are not that.
    """
    try:
        answer = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:
        raise Garbled(f"no list of embeddings ({fault})") from None
    rows = {place if row.index is None else row.index: row for place, row in enumerate(answer.data)}
    if sorted(rows) != list(range(inputs)) or len(answer.data) != inputs:
        raise Garbled(f"{len(answer.data)} embeddings for {inputs} inputs")
    vectors = tuple(_vector(rows[place]) for place in range(inputs))
    usage = answer.usage if answer.usage is not None and answer.usage.possible else None
    prompt_tokens = bound if usage is None else usage.prompt_tokens
    return Embedded(id=request_id, vectors=vectors, prompt_tokens=prompt_tokens), usage is not None


def _vector(row: _Row) -> bytes:
    if isinstance(row.embedding, str):
        return _of_base64(row.embedding)
    floats = array.array("f", row.embedding)
    if sys.byteorder == "big":
        floats.byteswap()
    return floats.tobytes()


def _of_base64(text: str) -> bytes:
    try:
        vector = binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        raise Garbled("an embedding that is not base64") from None
    if len(vector) % 4:
        raise Garbled("an embedding that is cut off")
    return vector
