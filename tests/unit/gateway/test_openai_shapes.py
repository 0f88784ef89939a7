"""Answers and events byte for byte as OpenAI's client reads them."""

import json
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from inference.gateway.openai_shapes import ChatShape, CompletionShape, Shape, error_event
from inference.protocol import Accepted, Delta, Finished, FinishReason, TokenLogprob, ToolCallDelta
from registry.errors import Unavailable

AWKWARD = 'He said "مرحبا" 🙂\n\u2028\x00\\'
FINISHED = Finished(id=1, reason=FinishReason.LENGTH, prompt_tokens=7, completion_tokens=2, cached_tokens=4)
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 2,
    "total_tokens": 9,
    "prompt_tokens_details": {"cached_tokens": 4},
}


def a_shape(kind: type[Shape], *, include_usage: bool = False, choices: int = 1) -> Shape:
    return kind("abc123", 1_700_000_000, 'odd "name"', "1.2.0", include_usage=include_usage, choices=choices)


def a_text(text: str) -> Delta:
    return Delta(id=1, text=text, tokens=1)


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
    opening, text, end, done = events(shape.opening() + shape.delta(a_text(AWKWARD)) + shape.closing(FINISHED))
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
    text, end, _ = events(shape.opening() + shape.delta(a_text("x")) + shape.closing(FINISHED))
    assert (text["choices"][0]["text"], text["choices"][0]["finish_reason"]) == ("x", None)
    assert (end["choices"][0]["text"], end["choices"][0]["finish_reason"]) == ("", "length")


@pytest.mark.parametrize("kind", [ChatShape, CompletionShape])
def test_usage_comes_last_and_is_null_before_when_it_was_asked_for(kind: type[Shape]) -> None:
    shape = a_shape(kind, include_usage=True)
    *before, usage, done = events(shape.opening() + shape.delta(a_text("x")) + shape.closing(FINISHED))
    assert all(chunk["usage"] is None for chunk in before)
    assert (usage["choices"], usage["usage"], done) == ([], USAGE, "data: [DONE]")


PARTS = [
    Delta(id=1, index=1, text="one", tokens=1),
    Delta(id=1, index=0, text="two", tokens=2, finish=FinishReason.STOP),
    Delta(id=1, index=1, text="!", tokens=3),
    Delta(id=1, index=1, tokens=3, finish=FinishReason.LENGTH),
]


def test_many_choices_stream_beside_one_another_and_each_ends_once() -> None:
    shape = a_shape(ChatShape, choices=2)
    *chunks, done = events(shape.opening() + b"".join(map(shape.delta, PARTS)) + shape.closing(FINISHED))
    assert done == "data: [DONE]"
    choices = [ChatCompletionChunk.model_validate(chunk).choices[0] for chunk in chunks]
    assert [(c.index, c.delta.role) for c in choices[:2]] == [(0, "assistant"), (1, "assistant")]
    assert [(c.index, c.delta.content, c.finish_reason) for c in choices[2:]] == [
        (1, "one", None),
        (0, "two", None),
        (0, None, "stop"),
        (1, "!", None),
        (1, None, "length"),
    ]


@pytest.mark.parametrize("kind", [ChatShape, CompletionShape])
def test_many_choices_of_a_whole_answer_are_in_order(kind: type[Shape]) -> None:
    body = json.loads(a_shape(kind, choices=3).whole([*PARTS, FINISHED]))
    texts = [choice["text"] if "text" in choice else choice["message"]["content"] for choice in body["choices"]]
    assert texts == ["two", "one!", ""]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert [choice["finish_reason"] for choice in body["choices"]] == ["stop", "length", "length"]
    assert body["usage"] == USAGE


CALLS = [
    Delta(id=1, text="See:", reasoning="Hm.", tokens=1),
    Delta(id=1, tool_calls=(ToolCallDelta(0, "call_a", "add", '{"a"'),), tokens=2),
    Delta(id=1, tool_calls=(ToolCallDelta(0, arguments=": 1}"), ToolCallDelta(1, "call_b", "now", "{}")), tokens=3),
    Delta(id=1, tokens=3, finish=FinishReason.TOOL_CALLS),
]


def test_calls_of_a_whole_chat() -> None:
    (choice,) = ChatCompletion.model_validate_json(a_shape(ChatShape).whole([*CALLS, FINISHED])).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "See:"
    assert (choice.message.model_extra or {})["reasoning_content"] == "Hm."
    calls = [(c.id, c.type, c.function.name, c.function.arguments) for c in choice.message.tool_calls or []]  # type: ignore[union-attr]
    assert calls == [("call_a", "function", "add", '{"a": 1}'), ("call_b", "function", "now", "{}")]


def test_a_message_that_is_calls_alone_has_no_content() -> None:
    body = json.loads(a_shape(ChatShape).whole([*CALLS[1:], FINISHED]))
    assert body["choices"][0]["message"]["content"] is None


def test_calls_of_a_stream_come_in_parts() -> None:
    shape = a_shape(ChatShape)
    chunks = [ChatCompletionChunk.model_validate(chunk) for chunk in events(b"".join(map(shape.delta, CALLS)))]
    first, second, third, end = [chunk.choices[0] for chunk in chunks]
    assert (first.delta.content, (first.delta.model_extra or {})["reasoning_content"]) == ("See:", "Hm.")
    assert [(c.index, c.id, c.type) for c in second.delta.tool_calls or []] == [(0, "call_a", "function")]
    assert [(c.index, c.id, c.function and c.function.arguments) for c in third.delta.tool_calls or []] == [
        (0, None, ": 1}"),
        (1, "call_b", "{}"),
    ]
    assert end.finish_reason == "tool_calls"


HALF, OTHER_HALF = "é".encode()[:1], "é".encode()[1:]
LOGPROBS = (
    TokenLogprob(5, b"a", -0.5, (TokenLogprob(5, b"a", -0.5), TokenLogprob(6, b"b", -1.5))),
    TokenLogprob(7, HALF, -2.0, (TokenLogprob(8, b"c", -1.0), TokenLogprob(9, b"d", -1e9))),
    TokenLogprob(10, OTHER_HALF, -0.25, (TokenLogprob(10, OTHER_HALF, -0.25), TokenLogprob(6, b"b", -3.0))),
)


def test_log_probabilities_of_a_chat() -> None:
    delta = Delta(id=1, text="aé", tokens=3, logprobs=LOGPROBS)
    whole = ChatCompletion.model_validate_json(a_shape(ChatShape).whole([delta, FINISHED])).choices[0].logprobs
    (chunk,) = events(a_shape(ChatShape).delta(delta))
    streamed = ChatCompletionChunk.model_validate(chunk).choices[0].logprobs
    assert whole is not None and streamed is not None
    assert whole.model_dump() == streamed.model_dump()
    assert [(e.token, e.bytes, e.logprob) for e in whole.content or []] == [
        ("a", [97], -0.5),
        ("\ufffd", list(HALF), -2.0),
        ("\ufffd", list(OTHER_HALF), -0.25),
    ]
    assert [(e.token, e.logprob) for e in (whole.content or [])[1].top_logprobs] == [("c", -1.0), ("d", -9999.0)]


def test_log_probabilities_of_a_completion_and_their_offsets_behind_an_echo() -> None:
    parts = [
        Delta(id=1, text="Ünd ", tokens=0),
        Delta(id=1, text="a", tokens=1, logprobs=LOGPROBS[:1]),
        Delta(id=1, text="é", tokens=3, logprobs=LOGPROBS[1:]),
    ]
    whole = Completion.model_validate_json(a_shape(CompletionShape).whole([*parts, FINISHED])).choices[0].logprobs
    assert whole is not None
    assert whole.tokens == ["a", "bytes:\\xc3", "bytes:\\xa9"]
    assert whole.token_logprobs == [-0.5, -2.0, -0.25]
    assert whole.text_offset == [4, 5, 5]
    assert whole.top_logprobs is not None and whole.top_logprobs[1] == {"c": -1.0, "d": -9999.0, "bytes:\\xc3": -2.0}
    shape = a_shape(CompletionShape)
    streamed = [chunk["choices"][0]["logprobs"] for chunk in events(b"".join(map(shape.delta, parts)))]
    assert streamed[0] is None
    assert streamed[1]["text_offset"] + streamed[2]["text_offset"] == [4, 5, 5]


def test_a_stream_that_breaks_off_says_so_and_is_never_done() -> None:
    (event,) = events(error_event(Unavailable("It broke off.", code="worker_failed")))
    assert event == {
        "error": {"message": "It broke off.", "type": "server_error", "param": None, "code": "worker_failed"}
    }
