"""``POST /v1/embeddings``: a worker's vectors in OpenAI's shape."""

import array
import asyncio
import binascii
import sys
from collections.abc import Iterator

import msgspec

from inference.gateway.admitted import Admitted
from inference.gateway.asgi import JSON
from inference.gateway.call import Call
from inference.gateway.dispatch import Answer
from inference.gateway.handlers import InferenceHandler
from inference.protocol import Embedded

_json = msgspec.json.Encoder().encode

_SLICE_BYTES = 256 * 1024
"""Vectors that are written in one turn of the event loop (about 4 ms as numbers): others' tokens wait no longer."""


class EmbeddingsHandler(InferenceHandler):
    async def _answer(self, call: Call, admitted: Admitted, begun: Answer) -> None:
        embedded = begun.messages[-1]
        assert isinstance(embedded, Embedded)
        pieces: list[bytes] = []
        written = 0
        for piece in body(embedded, begun.version.model, base64=admitted.request.base64):
            pieces.append(piece)
            written += len(piece)
            if written >= _SLICE_BYTES:
                written = 0
                await asyncio.sleep(0)
        headers = [*self._headers(admitted, begun, begun.queue_seconds), JSON]
        await call.answer(200, headers, b"".join(pieces))


def body(embedded: Embedded, model: str, *, base64: bool) -> Iterator[bytes]:
    """The answer's body, a piece for each vector."""
    yield b'{"object":"list","data":['
    for index, vector in enumerate(embedded.vectors):
        written = _base64(vector) if base64 else _numbers(vector)
        yield b'%b{"object":"embedding","index":%d,"embedding":%b}' % (b"," if index else b"", index, written)
    count = embedded.prompt_tokens
    yield b'],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (_json(model), count, count)


def _base64(vector: bytes) -> bytes:
    """Little-endian float32, as OpenAI's own clients read it."""
    return b'"%b"' % binascii.b2a_base64(vector, newline=False)


def _numbers(vector: bytes) -> bytes:
    floats = array.array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return _json(floats.tolist())
