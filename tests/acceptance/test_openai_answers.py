"""What the official OpenAI client can ask of an answer: schemas, tools, choices, log probabilities."""

import json
import math
from collections.abc import Iterator

import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from tests.installation import Installation

MODEL = "SmolLM2-135M-Instruct"
ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the weather in Paris?"}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 30}, "unit": {"enum": ["C", "F"]}},
            "required": ["city"],
        },
    },
}


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20)
    age: int = pydantic.Field(ge=0, le=120)


@pytest.fixture(scope="module")
def client(installation: Installation) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{installation.url}/v1", api_key="none", max_retries=0, timeout=120) as made:
        yield made


def test_a_pydantic_model_is_parsed_from_the_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=MODEL, messages=[{"role": "user", "content": "Invent a person."}], response_format=Person, temperature=0
    )
    person = answer.choices[0].message.parsed
    assert isinstance(person, Person) and 0 <= person.age <= 120 and len(person.name) <= 20


def test_a_json_object_streams(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Give me JSON."}],
        response_format={"type": "json_object"},
        max_tokens=40,
        temperature=0,
        stream=True,
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices).startswith("{")


def test_a_required_tool_is_called(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=ASK, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, temperature=0
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    (call,) = choice.message.tool_calls or []
    assert call.type == "function" and call.function.name == "get_weather" and call.id.startswith("call_")
    assert {"city"} <= set(json.loads(call.function.arguments)) <= {"city", "unit"}


def test_a_named_tool_streams_its_arguments_and_the_conversation_goes_on(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL,
        messages=ASK,
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        temperature=0,
    ) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_completion().choices[0].message
    assert kinds.count("tool_calls.function.arguments.delta") > 1
    (call,) = message.tool_calls or []
    told: list[ChatCompletionMessageParam] = [
        *ASK,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": call.function.arguments},
                }
            ],
        },
        {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 21 °C"},
    ]
    last = client.chat.completions.create(
        model=MODEL, messages=told, tools=[WEATHER], tool_choice="none", max_tokens=20, temperature=0
    )
    assert last.choices[0].message.content and not last.choices[0].message.tool_calls


def test_three_choices_each_with_its_own_end_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=ASK, n=3, max_tokens=12, temperature=1.2, seed=4)
    texts = [choice.message.content for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == [0, 1, 2] and len(set(texts)) == 3
    stream = client.chat.completions.create(
        model=MODEL,
        messages=ASK,
        n=3,
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    ends = [chunk.choices[0].index for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    assert sorted(ends) == [0, 1, 2]
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_log_probabilities_are_those_of_a_distribution(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=ASK, max_tokens=6, temperature=0, logprobs=True, top_logprobs=20
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.content
    assert "".join(entry.token for entry in logprobs.content) == answer.choices[0].message.content
    for entry in logprobs.content:
        assert entry.logprob == entry.top_logprobs[0].logprob and len(entry.top_logprobs) == 20
        assert 0.2 < sum(math.exp(other.logprob) for other in entry.top_logprobs) <= 1.0 + 1e-6
        assert bytes(entry.bytes or []).decode() == entry.token


def test_log_probabilities_of_a_completion_have_their_places_in_the_text(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="One, two, three,", max_tokens=6, temperature=0, logprobs=2)
    choice = answer.choices[0]
    assert choice.logprobs is not None and choice.logprobs.tokens and choice.logprobs.text_offset
    for token, place in zip(choice.logprobs.tokens, choice.logprobs.text_offset, strict=True):
        assert choice.text[place : place + len(token)] == token


def test_several_prompts_are_completed_beside_one_another(client: openai.OpenAI) -> None:
    prompts = ["The capital of France is", "One, two, three,"]
    both = client.completions.create(model=MODEL, prompt=prompts, max_tokens=3, temperature=0, n=2)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert both.choices[0].text == both.choices[1].text and both.choices[0].text.startswith(" Paris")
    assert both.choices[2].text == both.choices[3].text != both.choices[0].text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}},
            "response_format.json_schema.schema",
        ),
        (
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "f", "strict": True, "parameters": {"type": "array", "uniqueItems": True}},
                    }
                ]
            },
            "tools[0].function.parameters",
        ),
    ],
)
def test_what_can_not_be_held_to_is_refused_by_its_name(
    client: openai.OpenAI, fields: dict[str, object], param: str
) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model=MODEL, messages=ASK, stream=stream, extra_body=fields)
        assert (caught.value.param, caught.value.code) == (param, "invalid_schema")


def test_a_suffix_needs_a_model_that_learnt_to_fill_gaps(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt="def add(a, b):", suffix="\n")
    assert caught.value.param == "suffix"
