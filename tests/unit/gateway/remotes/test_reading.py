"""What a backend's stream says, and that no stream, however broken, says what can't be."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.gateway.gathered import gathered
from inference.gateway.remotes.events import MOST_EVENT_BYTES, EventDecoder, Garbled
from inference.gateway.remotes.reading import BackendError, Reading
from inference.gateway.remotes.vectors import embedded
from inference.protocol import Delta, FinishReason


def a_choice(index: int = 0, finish: str | None = None, **delta: Any) -> bytes:
    return json.dumps({"choices": [{"index": index, "delta": delta, "finish_reason": finish}]}).encode()


def read(*events: bytes, choices: int = 1) -> tuple[Reading, list[Delta]]:
    reading = Reading(1, choices)
    return reading, [delta for event in events for delta in reading.take(event)]


# --- Events ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 7), min_size=1))
def test_events_are_the_same_however_they_are_cut(sizes: list[int]) -> None:
    raw = b": ping\r\n\r\ndata: {}\n\ndata:two\ndata: lines\n\nevent: x\nid: 1\ndata: [DONE]\n\n"
    decoder, found, rest = EventDecoder(), [], raw
    while rest:
        for size in sizes:
            found += decoder.feed(rest[:size])
            rest = rest[size:]
    assert found == [b"{}", b"two\nlines", b"[DONE]"]


def test_an_event_without_end_is_not_waited_for() -> None:
    with pytest.raises(Garbled):
        EventDecoder().feed(b"data: " + b"x" * MOST_EVENT_BYTES)
    decoder = EventDecoder()
    with pytest.raises(Garbled):
        for _ in range(MOST_EVENT_BYTES // 1000 + 2):
            decoder.feed(b"data: " + b"x" * 1000 + b"\n")


# --- A stream --------------------------------------------------------------------------------------------------------


def test_text_comes_piece_by_piece_and_ends() -> None:
    reading, deltas = read(a_choice(content="Hel"), a_choice(content="lo"), a_choice(finish="length"), b"[DONE]")
    assert "".join(delta.text for delta in deltas) == "Hello"
    assert deltas[-1].finish is FinishReason.LENGTH
    assert reading.complete
    assert reading.done
    assert reading.tokens == 5


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("stop", FinishReason.STOP),
        ("eos_token", FinishReason.STOP),
        ("length", FinishReason.LENGTH),
        ("function_call", FinishReason.TOOL_CALLS),
        ("content_filter", FinishReason.CONTENT_FILTER),
    ],
)
def test_reasons_to_end_are_openais(word: str, reason: FinishReason) -> None:
    reading, _ = read(a_choice(finish=word))
    assert reading.finished(1, 1).reason is reason


def test_usage_goes_before_what_we_reckon() -> None:
    told = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}}
    reading, _ = read(a_choice(content="x"), json.dumps({"choices": [], "usage": told}).encode())
    finished = reading.finished(100, 100)
    assert (finished.prompt_tokens, finished.completion_tokens, finished.cached_tokens) == (9, 4, 8)


def a_usage(completion_tokens: int, *choices: dict[str, Any]) -> bytes:
    return json.dumps(
        {"choices": choices, "usage": {"prompt_tokens": 9, "completion_tokens": completion_tokens}}
    ).encode()


@pytest.mark.parametrize(
    ("events", "tokens"),
    [
        ([a_usage(3), a_usage(4)], 7),
        ([a_usage(7)], 7),
        ([a_usage(1, {"index": 0}), a_usage(2, {"index": 0}), a_usage(7)], 7),
        ([a_usage(3, {"index": 0}), a_usage(7, {"index": 1})], 7),
    ],
    ids=["one for each choice", "one for all", "what was used so far, then all", "with the choices only"],
)
def test_usage_is_told_in_several_ways(events: list[bytes], tokens: int) -> None:
    reading, _ = read(*events, choices=2)
    assert reading.finished(1, 1).completion_tokens == tokens
    assert reading.finished(1, 1).prompt_tokens == 9


def test_without_usage_what_we_reckon_is_told() -> None:
    reading, _ = read(a_choice(content="x"))
    assert (reading.finished(100, 50).prompt_tokens, reading.finished(100, 50).completion_tokens) == (100, 50)


def test_times_are_from_the_question_to_the_first_token_and_from_there_to_the_end() -> None:
    moments = iter([0.0, 2.0, 7.0])
    reading = Reading(1, 1, lambda: next(moments))
    reading.take(a_choice(content="x"))
    finished = reading.finished(1, 1)
    assert (finished.prefill_seconds, finished.decode_seconds) == (2.0, 5.0)


def test_a_call_that_is_named_again_with_each_part_is_one_call() -> None:
    part = {"index": 0, "id": "c", "function": {"name": "look", "arguments": '{"a"'}}
    rest = {"index": 0, "id": "c", "function": {"name": "look", "arguments": ":1}"}}
    reading, deltas = read(a_choice(tool_calls=[part]), a_choice(tool_calls=[rest]), a_choice(finish="tool_calls"))
    (choice,) = gathered(deltas, reading.finished(1, 1), 1)
    assert [(call.name, call.arguments) for call in choice.calls] == [("look", '{"a":1}')]


def test_a_call_without_an_id_gets_one() -> None:
    _, deltas = read(a_choice(tool_calls=[{"index": 0, "function": {"name": "look", "arguments": "{}"}}]))
    assert deltas[0].tool_calls[0].id


def test_log_probabilities_of_both_endpoints_are_read() -> None:
    entry = {"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": [{"token": "b", "logprob": -2.0}]}
    chat = {"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [entry]}}]}
    old = {"tokens": ["a"], "token_logprobs": [None], "top_logprobs": [{"b": -2.0}], "text_offset": [0]}
    completion = {"choices": [{"index": 0, "text": "a", "logprobs": old}]}
    _, deltas = read(json.dumps(chat).encode(), json.dumps(completion).encode())
    for delta, logprob in zip(deltas, (-1.0, None), strict=True):
        (told,) = delta.logprobs
        assert (told.piece, told.logprob, told.top[0].piece, told.top[0].logprob) == (b"a", logprob, b"b", -2.0)


def test_a_failure_within_the_stream_is_one() -> None:
    with pytest.raises(BackendError):
        read(b'{"error": {"message": "no"}}')
    read(b'{"error": null, "choices": []}')


@pytest.mark.parametrize(
    "event",
    [
        b"",
        b"null",
        b"[]",
        b'{"choices": {}}',
        b'{"choices": [{"index": 1, "delta": {"content": "x"}}]}',
        b'{"choices": [{"index": -1, "delta": {"content": "x"}}]}',
        b'{"choices": [{"index": 0, "delta": {"content": 5}}]}',
        b'{"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 3, "function": {"name": "x"}}]}}]}',
        b'{"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {}}]}}]}',
        b'{"choices": [{"index": 0, "logprobs": {"content": [{"token": "x", "bytes": [999]}]}}]}',
        b'{"usage": {"prompt_tokens": -5}}',
        b'{"usage": {"prompt_tokens": "many"}}',
        b'{"usage": {"prompt_tokens": 99999999999999999}}',
        b"\xff\xfe",
    ],
)
def test_what_can_not_be_is_refused(event: bytes) -> None:
    with pytest.raises(Garbled):
        read(event)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "index", "delta", "content", "tool_calls", "function", "name", "usage", "text"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(st.lists(JSON, max_size=5))
def test_whatever_comes_only_what_can_be_gathered_is_told(values: list[Any]) -> None:
    reading, deltas = Reading(1, 2), list[Delta]()
    for value in values:
        try:
            deltas += reading.take(msgspec.json.encode(value))
        except (Garbled, BackendError):
            break
    assert len(gathered(deltas, reading.finished(1, 1), 2)) == 2


# --- Embeddings ------------------------------------------------------------------------------------------------------


def test_vectors_come_in_the_order_of_their_inputs_and_may_be_base64() -> None:
    rows = [{"index": 1, "embedding": "AACAPw=="}, {"index": 0, "embedding": [2.0]}]
    found, told = embedded(json.dumps({"data": rows, "usage": {"prompt_tokens": 3}}).encode(), 1, 2, 99)
    assert found.vectors == (b"\x00\x00\x00\x40", b"\x00\x00\x80\x3f")
    assert (found.prompt_tokens, told) == (3, True)


def test_without_usage_their_bound_is_told() -> None:
    found, told = embedded(b'{"data": [{"embedding": [1.0]}]}', 1, 1, 99)
    assert (found.prompt_tokens, told) == (99, False)


@pytest.mark.parametrize(
    "data",
    [
        [],
        [{"index": 1, "embedding": [1.0]}],
        [{"embedding": [1.0]}, {"embedding": [1.0]}],
        [{"embedding": "!"}],
        [{"embedding": "AAA="}],
        [{"embedding": None}],
        "x",
    ],
)
def test_what_are_no_such_vectors_is_refused(data: Any) -> None:
    with pytest.raises(Garbled):
        embedded(json.dumps({"data": data}).encode(), 1, 1, 9)
