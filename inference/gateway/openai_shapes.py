"""A worker's words in OpenAI's shapes: whole answers, and the events of a stream.

An answer's constant parts are encoded once for each request; what is left for a token is to encode its text.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import msgspec

from inference.gateway.gathered import Choice, gathered
from inference.gateway.logprob_shapes import CompletionLogprobs, of_chat
from inference.gateway.workers import StreamMessage
from inference.protocol import Delta, Finished, FinishReason, ToolCallDelta
from registry.errors import ApiError

_json = msgspec.json.Encoder().encode

DONE = b"data: [DONE]\n\n"


class Shape(ABC):
    """One request's answer. :class:`ChatShape` and :class:`CompletionShape` say how it looks."""

    id_prefix: str
    _object: bytes
    _chunk_object: bytes

    __slots__ = ("_choices", "_chunk_head", "_chunk_tail", "_constant", "_include_usage", "_open")

    def __init__(
        self, request_hex: str, created: int, model: str, version: str, *, include_usage: bool, choices: int = 1
    ) -> None:
        """``include_usage``: whether the stream tells the usage at its end."""
        self._constant = b'"id":"%b%b","created":%d,"model":%b,"system_fingerprint":%b,' % (
            self.id_prefix.encode(),
            request_hex.encode(),
            created,
            _json(model),
            _json(f"fp_{version}"),
        )
        self._include_usage = include_usage
        self._choices = choices
        self._open = set(range(choices))
        """Choices of the stream that have not ended."""
        self._chunk_head = b'data: {"object":"%b",%b"choices":[' % (self._chunk_object, self._constant)
        # OpenAI's streams say "usage": null up to the chunk that has it, when it was asked for.
        self._chunk_tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"

    def whole(self, messages: Sequence[StreamMessage]) -> bytes:
        """The body of an answer that does not stream. ``messages`` end with Finished."""
        finished = messages[-1]
        assert isinstance(finished, Finished)
        choices = [self._whole_choice(choice) for choice in gathered(messages, finished, self._choices)]
        return b'{"object":"%b",%b"choices":[%b],"usage":%b}' % (
            self._object,
            self._constant,
            b",".join(choices),
            _usage(finished),
        )

    def opening(self) -> bytes:
        """The events before the first text."""
        return b""

    def delta(self, delta: Delta) -> bytes:
        """The events of one part of one choice."""
        events = b""
        if delta.text or delta.reasoning or delta.tool_calls or delta.logprobs:
            events = b"%b%b%b" % (self._chunk_head, self._part_of_choice(delta), self._chunk_tail)
        if delta.finish is not None:
            events += self._end(delta.index, delta.finish)
        return events

    def closing(self, finished: Finished) -> bytes:
        """The events after the last text."""
        end = b"".join([self._end(index, finished.reason) for index in sorted(self._open)])
        if self._include_usage:
            end += b'%b],"usage":%b}\n\n' % (self._chunk_head, _usage(finished))
        return end + DONE

    def _end(self, index: int, reason: FinishReason) -> bytes:
        self._open.discard(index)
        return b"%b%b%b" % (self._chunk_head, self._end_choice(index, reason.encode()), self._chunk_tail)

    @abstractmethod
    def _whole_choice(self, choice: Choice) -> bytes: ...

    @abstractmethod
    def _part_of_choice(self, delta: Delta) -> bytes: ...

    @abstractmethod
    def _end_choice(self, index: int, reason: bytes) -> bytes: ...


class ChatShape(Shape):
    id_prefix = "chatcmpl-"
    _object = b"chat.completion"
    _chunk_object = b"chat.completion.chunk"
    __slots__ = ()

    def opening(self) -> bytes:
        choice = b'{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
        return b"".join(
            [b"%b%b%b" % (self._chunk_head, choice % index, self._chunk_tail) for index in range(self._choices)]
        )

    def _whole_choice(self, choice: Choice) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.reasoning:
            message["reasoning_content"] = choice.reasoning
        if calls := choice.calls:
            message["content"] = choice.text or None
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in calls
            ]
        return b'{"index":%d,"message":%b,"logprobs":%b,"finish_reason":"%b"}' % (
            choice.index,
            _json(message),
            _json(of_chat(choice.logprobs)) if choice.logprobs else b"null",
            choice.finish.encode(),
        )

    def _part_of_choice(self, delta: Delta) -> bytes:
        if delta.reasoning or delta.tool_calls:
            content = _json(_chat_delta(delta))
        else:
            content = b'{"content":%b}' % _json(delta.text)
        logprobs = _json(of_chat(delta.logprobs)) if delta.logprobs else b"null"
        return b'{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":null}' % (delta.index, content, logprobs)

    def _end_choice(self, index: int, reason: bytes) -> bytes:
        return b'{"index":%d,"delta":{},"logprobs":null,"finish_reason":"%b"}' % (index, reason)


class CompletionShape(Shape):
    id_prefix = "cmpl-"
    _object = _chunk_object = b"text_completion"
    __slots__ = ("_logprobs",)

    def __init__(
        self, request_hex: str, created: int, model: str, version: str, *, include_usage: bool, choices: int = 1
    ) -> None:
        super().__init__(request_hex, created, model, version, include_usage=include_usage, choices=choices)
        self._logprobs: dict[int, CompletionLogprobs] = {}

    def _whole_choice(self, choice: Choice) -> bytes:
        logprobs = CompletionLogprobs()
        logprobs.skip(choice.echoed)
        return b'{"index":%d,"text":%b,"logprobs":%b,"finish_reason":"%b"}' % (
            choice.index,
            _json(choice.text),
            _json(logprobs.shape(choice.logprobs)) if choice.logprobs else b"null",
            choice.finish.encode(),
        )

    def _part_of_choice(self, delta: Delta) -> bytes:
        shown = b"null"
        if delta.logprobs or not delta.tokens:
            logprobs = self._logprobs.setdefault(delta.index, CompletionLogprobs())
            if delta.logprobs:
                shown = _json(logprobs.shape(delta.logprobs))
            else:
                logprobs.skip(len(delta.text))
        return b'{"index":%d,"text":%b,"logprobs":%b,"finish_reason":null}' % (delta.index, _json(delta.text), shown)

    def _end_choice(self, index: int, reason: bytes) -> bytes:
        return b'{"index":%d,"text":"","logprobs":null,"finish_reason":"%b"}' % (index, reason)


def error_body(error: ApiError) -> bytes:
    return _json(error.payload())


def error_event(error: ApiError) -> bytes:
    """How a stream ends that can't go on: nothing follows, no [DONE] either."""
    return b"data: %b\n\n" % error_body(error)


def _chat_delta(delta: Delta) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    if delta.reasoning:
        parts["reasoning_content"] = delta.reasoning
    if delta.text:
        parts["content"] = delta.text
    if delta.tool_calls:
        parts["tool_calls"] = [_call_delta(call) for call in delta.tool_calls]
    return parts


def _call_delta(call: ToolCallDelta) -> dict[str, Any]:
    if call.id is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": call.id, "type": "function", "function": function}


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
