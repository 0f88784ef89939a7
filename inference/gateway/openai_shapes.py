"""A worker's words in OpenAI's shapes: whole answers, and the events of a stream.

An answer's constant parts are encoded once for each request; what is left for a token is to encode its text.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import msgspec

from inference.gateway.workers import StreamMessage
from inference.protocol import Delta, Finished
from registry.errors import ApiError

_json = msgspec.json.Encoder().encode

DONE = b"data: [DONE]\n\n"


class Shape(ABC):
    """One request's answer. :class:`ChatShape` and :class:`CompletionShape` say how it looks."""

    id_prefix: str
    _object: bytes
    _chunk_object: bytes

    __slots__ = ("_chunk_head", "_chunk_tail", "_constant", "_include_usage")

    def __init__(self, request_hex: str, created: int, model: str, version: str, *, include_usage: bool) -> None:
        """``include_usage``: whether the stream tells the usage at its end."""
        self._constant = b'"id":"%b%b","created":%d,"model":%b,"system_fingerprint":%b,' % (
            self.id_prefix.encode(),
            request_hex.encode(),
            created,
            _json(model),
            _json(f"fp_{version}"),
        )
        self._include_usage = include_usage
        self._chunk_head = b'data: {"object":"%b",%b"choices":[' % (self._chunk_object, self._constant)
        # OpenAI's streams say "usage": null up to the chunk that has it, when it was asked for.
        self._chunk_tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"

    def whole(self, messages: Sequence[StreamMessage]) -> bytes:
        """The body of an answer that does not stream. ``messages`` end with Finished."""
        finished = messages[-1]
        assert isinstance(finished, Finished)
        text = "".join([message.text for message in messages if isinstance(message, Delta)])
        return b'{"object":"%b",%b"choices":[%b],"usage":%b}' % (
            self._object,
            self._constant,
            self._whole_choice(_json(text), finished.reason.encode()),
            _usage(finished),
        )

    def opening(self) -> bytes:
        """The events before the first text."""
        return b""

    def text(self, text: str) -> bytes:
        """The event of one piece of text."""
        return b"%b%b%b" % (self._chunk_head, self._text_choice(_json(text)), self._chunk_tail)

    def closing(self, finished: Finished) -> bytes:
        """The events after the last text."""
        end = b"%b%b%b" % (self._chunk_head, self._end_choice(finished.reason.encode()), self._chunk_tail)
        if self._include_usage:
            end += b'%b],"usage":%b}\n\n' % (self._chunk_head, _usage(finished))
        return end + DONE

    @abstractmethod
    def _whole_choice(self, text: bytes, reason: bytes) -> bytes: ...

    @abstractmethod
    def _text_choice(self, text: bytes) -> bytes: ...

    @abstractmethod
    def _end_choice(self, reason: bytes) -> bytes: ...


class ChatShape(Shape):
    id_prefix = "chatcmpl-"
    _object = b"chat.completion"
    _chunk_object = b"chat.completion.chunk"
    __slots__ = ()

    def opening(self) -> bytes:
        choice = b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
        return b"%b%b%b" % (self._chunk_head, choice, self._chunk_tail)

    def _whole_choice(self, text: bytes, reason: bytes) -> bytes:
        message = b'{"role":"assistant","content":%b,"refusal":null}' % text
        return b'{"index":0,"message":%b,"logprobs":null,"finish_reason":"%b"}' % (message, reason)

    def _text_choice(self, text: bytes) -> bytes:
        return b'{"index":0,"delta":{"content":%b},"logprobs":null,"finish_reason":null}' % text

    def _end_choice(self, reason: bytes) -> bytes:
        return b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"%b"}' % reason


class CompletionShape(Shape):
    id_prefix = "cmpl-"
    _object = _chunk_object = b"text_completion"
    __slots__ = ()

    def _whole_choice(self, text: bytes, reason: bytes) -> bytes:
        return b'{"index":0,"text":%b,"logprobs":null,"finish_reason":"%b"}' % (text, reason)

    def _text_choice(self, text: bytes) -> bytes:
        return b'{"index":0,"text":%b,"logprobs":null,"finish_reason":null}' % text

    def _end_choice(self, reason: bytes) -> bytes:
        return b'{"index":0,"text":"","logprobs":null,"finish_reason":"%b"}' % reason


def error_body(error: ApiError) -> bytes:
    return _json(error.payload())


def error_event(error: ApiError) -> bytes:
    """How a stream ends that can't go on: nothing follows, no [DONE] either."""
    return b"data: %b\n\n" % error_body(error)


def _usage(finished: Finished) -> bytes:
    return (
        b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":%d}}'
        % (
            finished.prompt_tokens,
            finished.completion_tokens,
            finished.prompt_tokens + finished.completion_tokens,
            finished.cached_tokens,
        )
    )
