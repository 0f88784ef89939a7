"""A worker's request as the body that a backend gets."""

import json
from typing import Any

import pytest

from inference.gateway.remotes.bodies import body_of, path_of
from inference.gateway.remotes.bounds import prompt_bound
from inference.protocol import (
    ChatMessage,
    Constraint,
    Embed,
    Generate,
    Sampling,
    Tool,
    ToolCall,
    ToolChoice,
)


def written(request: Generate | Embed, *given: str, max_tokens: int | None = None) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(body_of(request, "theirs", frozenset(given), max_tokens))
    return body


def chat(*messages: ChatMessage, **fields: Any) -> Generate:
    return Generate(id=1, request_id="r", messages=messages or (ChatMessage("user", "Hi"),), **fields)


def test_paths_are_openais() -> None:
    assert path_of(chat()) == "/chat/completions"
    assert path_of(Generate(id=1, request_id="r", text="x")) == "/completions"
    assert path_of(Embed(id=1, request_id="r", inputs=("x",))) == "/embeddings"


def test_only_what_the_client_gave_is_sent() -> None:
    body = written(chat(sampling=Sampling(temperature=0.8, seed=None)))
    assert set(body) == {"model", "stream", "stream_options", "messages"}
    assert body["stream_options"] == {"include_usage": True}


def test_what_equals_our_own_default_is_sent_if_it_was_given() -> None:
    body = written(chat(sampling=Sampling(temperature=0.8, top_k=40)), "temperature", "top_k")
    assert (body["temperature"], body["top_k"]) == (0.8, 40)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_longest_answer_has_the_name_that_the_client_used(name: str) -> None:
    body = written(chat(), name, max_tokens=9)
    assert body[name] == 9
    assert ("max_tokens" in body) != ("max_completion_tokens" in body)


def test_a_chat_goes_on_with_its_calls() -> None:
    body = written(
        chat(
            ChatMessage("assistant", "", tool_calls=(ToolCall("c1", "look", "{}"),), reasoning="Hm."),
            ChatMessage("tool", "here", tool_call_id="c1"),
            tools=(Tool("look", "looks", '{"type":"object"}', strict=True),),
            tool_choice=ToolChoice.REQUIRED,
            forced_tool="look",
            parallel_tool_calls=False,
        )
    )
    assert body["messages"] == [
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "Hm.",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "here", "tool_call_id": "c1"},
    ]
    function = {"name": "look", "description": "looks", "parameters": {"type": "object"}, "strict": True}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "look"}}
    assert body["parallel_tool_calls"] is False


def test_forms_of_the_answer_are_openais() -> None:
    assert written(chat(constraint=Constraint()))["response_format"] == {"type": "json_object"}
    schema = written(chat(constraint=Constraint('{"type":"object"}')))["response_format"]
    assert schema["json_schema"] == {"name": "answer", "schema": {"type": "object"}, "strict": True}


def test_log_probabilities_are_asked_for_as_each_endpoint_does() -> None:
    assert written(chat(logprobs=3)) | {"logprobs": True, "top_logprobs": 3} == written(chat(logprobs=3))
    assert written(Generate(id=1, request_id="r", text="x", logprobs=3))["logprobs"] == 3


def test_a_completion_takes_text_or_tokens() -> None:
    assert written(Generate(id=1, request_id="r", text="x", echo=True, suffix="y"))["suffix"] == "y"
    assert written(Generate(id=1, request_id="r", tokens=(1, 2)))["prompt"] == [1, 2]


def test_biases_have_names_as_json_wants() -> None:
    assert written(chat(sampling=Sampling(logit_bias={5: -1.0})))["logit_bias"] == {"5": -1.0}


@pytest.mark.parametrize("text", ["", "word " * 100, "ü" * 50, "日本語"])
def test_a_prompt_has_no_more_tokens_than_bytes(text: str) -> None:
    assert prompt_bound(chat(ChatMessage("user", text))) >= len(text.encode())
    assert prompt_bound(Generate(id=1, request_id="r", text=text)) >= len(text.encode())
    assert prompt_bound(Embed(id=1, request_id="r", inputs=(text, (1, 2, 3)))) >= len(text.encode()) + 3
