"""Answers and events byte for byte as OpenAI's client reads them."""

import json
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from inference.gateway.openai_shapes import ChatShape, CompletionShape, Shape, error_event
from inference.protocol import Accepted, Delta, Finished, FinishReason
from registry.errors import Unavailable

AWKWARD = 'He said "مرحبا" 🙂\n\u2028\x00\\'
FINISHED = Finished(id=1, reason=FinishReason.LENGTH, prompt_tokens=7, completion_tokens=2, cached_tokens=4)
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 2,
    "total_tokens": 9,
    "prompt_tokens_details": {"cached_tokens": 4},
}


def a_shape(kind: type[Shape], *, include_usage: bool = False) -> Shape:
    return kind("abc123", 1_700_000_000, 'odd "name"', "1.2.0", include_usage=include_usage)


def events(raw: bytes) -> list[Any]:
    lines = raw.decode().split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith("data: ") for line in lines)
    return [line if line == "data: [DONE]" else json.loads(line.removeprefix("data: ")) for line in lines]


def test_a_whole_chat() -> None:
    texts = [Delta(id=1, text=AWKWARD, tokens=1), Delta(id=1, text="!", tokens=2)]
    body = json.loads(a_shape(ChatShape).whole([Accepted(id=1, prompt_tokens=7), *texts, FINISHED]))
    answer = ChatCompletion.model_validate(body)
    assert (answer.id, answer.created, answer.model) == ("chatcmpl-abc123", 1_700_000_000, 'odd "name"')
    assert answer.choices[0].message.content == AWKWARD + "!"
    assert answer.choices[0].finish_reason == "length"
    assert (body["object"], body["usage"]) == ("chat.completion", USAGE)


def test_a_whole_completion() -> None:
    body = json.loads(a_shape(CompletionShape).whole([Delta(id=1, text=AWKWARD, tokens=1), FINISHED]))
    answer = Completion.model_validate(body)
    assert (answer.id, answer.object, answer.choices[0].text) == ("cmpl-abc123", "text_completion", AWKWARD)
    assert body["usage"] == USAGE


def test_a_chat_stream_begins_with_the_role_and_ends_with_the_reason() -> None:
    shape = a_shape(ChatShape)
    opening, text, end, done = events(shape.opening() + shape.text(AWKWARD) + shape.closing(FINISHED))
    assert opening["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert text["choices"][0]["delta"] == {"content": AWKWARD}
    assert (end["choices"][0]["delta"], end["choices"][0]["finish_reason"]) == ({}, "length")
    assert done == "data: [DONE]"
    for chunk in (opening, text, end):
        ChatCompletionChunk.model_validate(chunk)
        assert (chunk["object"], chunk["id"]) == ("chat.completion.chunk", "chatcmpl-abc123")
        assert "usage" not in chunk


def test_a_completion_stream_opens_without_an_event() -> None:
    shape = a_shape(CompletionShape)
    text, end, _ = events(shape.opening() + shape.text("x") + shape.closing(FINISHED))
    assert (text["choices"][0]["text"], text["choices"][0]["finish_reason"]) == ("x", None)
    assert (end["choices"][0]["text"], end["choices"][0]["finish_reason"]) == ("", "length")


@pytest.mark.parametrize("kind", [ChatShape, CompletionShape])
def test_usage_comes_last_and_is_null_before_when_it_was_asked_for(kind: type[Shape]) -> None:
    shape = a_shape(kind, include_usage=True)
    *before, usage, done = events(shape.opening() + shape.text("x") + shape.closing(FINISHED))
    assert all(chunk["usage"] is None for chunk in before)
    assert (usage["choices"], usage["usage"], done) == ([], USAGE, "data: [DONE]")


def test_a_stream_that_breaks_off_says_so_and_is_never_done() -> None:
    (event,) = events(error_event(Unavailable("It broke off.", code="worker_failed")))
    assert event == {
        "error": {"message": "It broke off.", "type": "server_error", "param": None, "code": "worker_failed"}
    }
