"""What answers can be: constrained, with calls, of several choices, with log probabilities; on a real model."""

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.engine.llama import Model
from inference.protocol import (
    ChatMessage,
    Constraint,
    Delta,
    Failed,
    Finished,
    FinishReason,
    Generate,
    Sampling,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolChoice,
)
from tests.integration.engine.conftest import Client

GREEDY = Sampling(temperature=0.0)
WILD = Sampling(temperature=1.5, top_k=0, top_p=1.0, min_p=0.0, seed=1)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER = Tool(
    name="get_weather",
    description="The weather in a city.",
    parameters=json.dumps(
        {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
            "required": ["city"],
        }
    ),
)
NOW = Tool(name="now", description="The time.")


def chat(id: int, text: str, **options: Any) -> Generate:
    return Generate(id=id, request_id=f"r{id}", messages=(ChatMessage("user", text),), **options)


class Told:
    """All that a worker said of one request, by choice."""

    def __init__(self, messages: list[Any]) -> None:
        self.deltas = [message for message in messages if isinstance(message, Delta)]
        self.last = messages[-1]

    def text(self, index: int = 0) -> str:
        return "".join(delta.text for delta in self.deltas if delta.index == index)

    def calls(self, index: int = 0) -> list[tuple[str, Any]]:
        found: list[list[str]] = []
        for delta in self.deltas:
            for call in delta.tool_calls if delta.index == index else ():
                if call.name is not None:
                    found.append([call.name, ""])
                found[call.index][1] += call.arguments
        return [(name, json.loads(arguments)) for name, arguments in found]

    def logprobs(self, index: int = 0) -> list[TokenLogprob]:
        return [entry for delta in self.deltas if delta.index == index for entry in delta.logprobs]

    def finishes(self) -> list[tuple[int, FinishReason]]:
        return sorted((delta.index, delta.finish) for delta in self.deltas if delta.finish is not None)


async def ask(client: Client, request: Generate) -> Told:
    client.send(request)
    return Told(await client.until(request.id, (Finished, Failed)))


# --- Constrained answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [GREEDY, WILD], ids=["greedy", "wild"])
async def test_an_answer_by_a_schema_meets_it_to_the_letter(client: Client, sampling: Sampling) -> None:
    constraint = Constraint(json.dumps(PERSON))
    told = await ask(client, chat(1, "Describe a person as JSON.", constraint=constraint, sampling=sampling))
    person = json.loads(told.text())
    assert set(person) == {"name", "age"} and len(person["name"]) <= 20 and 0 <= person["age"] <= 99
    assert told.finishes() == [(0, FinishReason.STOP)]


async def test_a_json_object_is_one_unless_the_tokens_run_out(client: Client) -> None:
    told = await ask(
        client, chat(1, "Give me JSON with one key.", constraint=Constraint(), sampling=GREEDY, max_tokens=200)
    )
    assert told.text().startswith("{")
    if told.last.reason is FinishReason.STOP:
        assert isinstance(json.loads(told.text()), dict)
    cut = await ask(client, chat(2, "Give me JSON.", constraint=Constraint(), sampling=GREEDY, max_tokens=3))
    assert cut.text().startswith("{") and cut.finishes() == [(0, FinishReason.LENGTH)]


async def test_ignoring_the_end_does_not_go_beyond_the_grammars(client: Client) -> None:
    constraint = Constraint(json.dumps({"enum": ["yes", "no"]}))
    told = await ask(client, chat(1, "Is it?", constraint=constraint, ignore_eos=True, max_tokens=50))
    assert json.loads(told.text()) in ("yes", "no") and told.last.reason is FinishReason.STOP


async def test_arabic_within_a_constrained_string_arrives_whole(client: Client) -> None:
    constraint = Constraint(json.dumps({"type": "string", "pattern": "^[ء-ي ]{8,30}$"}))
    told = await ask(client, chat(1, "مرحبا", constraint=constraint, sampling=WILD))
    assert len(json.loads(told.text())) >= 8 and "\ufffd" not in told.text()


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ('{"type": "strnig"}', "Invalid type"),
        ('{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}', "without end"),
        ('{"type": "array", "items": ' * 5000 + "{}" + "}" * 5000, "characters"),
        ('{"type": "array", "items": ' * 200 + "{}" + "}" * 200, "nested"),
        ('{"type": "string", "pattern": "(a"}', "regex"),
    ],
)
async def test_a_schema_that_can_not_be_held_to_is_the_clients_fault(client: Client, schema: str, words: str) -> None:
    told = await ask(client, chat(1, "Hi", constraint=Constraint(schema)))
    assert isinstance(told.last, Failed)
    assert (told.last.status, told.last.param) == (400, "response_format.json_schema.schema")
    assert words in told.last.message


async def test_a_bomb_of_a_schema_delays_nobody_else(client: Client) -> None:
    bomb = json.dumps(
        {"type": "object", "properties": {f"p{n}": {"pattern": f"(a{{1,{n}}}){{1,9}}"} for n in range(450)}}
    )
    for id in range(10, 16):
        client.send(chat(id, "Hi", constraint=Constraint(bomb), max_tokens=4))
    began = time.monotonic()
    assert isinstance((await ask(client, chat(1, "Hi", max_tokens=2, sampling=GREEDY))).last, Finished)
    assert time.monotonic() - began < 3
    for id in range(10, 16):
        await client.until(id, (Finished, Failed))


async def test_a_grammar_that_grows_too_large_amid_the_answer_ends_that_request_alone(client: Client) -> None:
    constraint = Constraint(json.dumps({"type": "string", "pattern": "^((((a{2,100}){20,100}){20,100}){20,100})$"}))
    client.send(chat(2, "Count to a hundred.", max_tokens=60, ignore_eos=True))
    told = await ask(client, chat(1, "Hi", constraint=constraint, n=3, max_tokens=200, sampling=GREEDY))
    assert isinstance(told.last, Failed) and (told.last.status, told.last.code) == (400, "grammar_failed")
    other = Told(await client.until(2, (Finished, Failed)))
    assert isinstance(other.last, Finished) and other.last.completion_tokens == 60


# --- Choices ---------------------------------------------------------------------------------------------------------


async def test_choices_differ_and_their_prompt_counts_once(client: Client) -> None:
    told = await ask(
        client, chat(1, "Tell me a story.", n=4, max_tokens=24, sampling=Sampling(temperature=1.2, seed=3))
    )
    texts = [told.text(index) for index in range(4)]
    assert len(set(texts)) == 4 and all(texts)
    assert [index for index, _ in told.finishes()] == [0, 1, 2, 3]
    one = await ask(client, chat(2, "Tell me a story.", max_tokens=1))
    assert told.last.prompt_tokens == one.last.prompt_tokens
    assert 24 < told.last.completion_tokens <= 4 * 24


async def test_greedy_choices_are_the_same_and_each_follows_its_own_grammar(client: Client) -> None:
    constraint = Constraint(json.dumps(PERSON))
    told = await ask(client, chat(1, "Describe a person as JSON.", n=3, constraint=constraint, sampling=GREEDY))
    assert len({told.text(index) for index in range(3)}) == 1 and json.loads(told.text(2))
    wild = await ask(client, chat(2, "Describe a person as JSON.", n=3, constraint=constraint, sampling=WILD))
    people = [json.loads(wild.text(index)) for index in range(3)]
    assert all(set(person) == {"name", "age"} for person in people) and len({person["name"] for person in people}) > 1


async def test_every_choice_echoes_the_prompt(client: Client) -> None:
    request = Generate(id=1, request_id="r", text="Once upon", n=2, echo=True, max_tokens=0)
    told = await ask(client, request)
    assert [told.text(0), told.text(1)] == ["Once upon", "Once upon"]
    assert told.finishes() == [(0, FinishReason.LENGTH), (1, FinishReason.LENGTH)]


# --- Log probabilities -----------------------------------------------------------------------------------------------


async def test_log_probabilities_are_those_of_the_models_own_logits(client: Client, smollm2: Path) -> None:
    request = Generate(
        id=1,
        request_id="r",
        text="The capital of France is",
        max_tokens=6,
        logprobs=5,
        sampling=Sampling(temperature=0.0, logit_bias={28: -100.0}, presence_penalty=1.0),
    )
    # Whatever else is computed in a batch changes a quantized model's logits a little.
    await client.until_load(0)
    told = await ask(client, request)
    entries = told.logprobs()
    assert b"".join(entry.piece for entry in entries).decode() == told.text() and len(entries) == 6

    model = Model([str(smollm2)], lambda _: None)
    tokens = model.tokenize("The capital of France is", add_special=True)
    context = model.create_context(tokens=128, sequences=1, unified=True, batch_tokens=64, threads=2)
    context.decode(tokens, range(len(tokens)), [0] * len(tokens), [len(tokens) - 1])
    row = context.logits(1)[0].astype(np.float64)
    logprobs = row - (row.max() + math.log(np.exp(row - row.max()).sum()))
    first = entries[0]
    assert first.logprob == pytest.approx(logprobs[first.token], abs=0.05)
    assert [other.token for other in first.top] == np.argsort(-logprobs)[:5].tolist()
    assert [other.logprob for other in first.top] == pytest.approx(sorted(logprobs)[-1:-6:-1], abs=0.05)


async def test_log_probabilities_sum_to_one_over_the_likeliest_of_a_certain_place(client: Client) -> None:
    told = await ask(client, chat(1, "Say hello.", max_tokens=8, logprobs=20, sampling=GREEDY))
    for entry in told.logprobs():
        assert sum(math.exp(other.logprob or 0.0) for other in entry.top) <= 1.0 + 1e-6
        assert entry.top[0].token == entry.token and entry.logprob == entry.top[0].logprob


async def test_a_constrained_token_is_told_with_what_the_model_thought_of_it(client: Client) -> None:
    constraint = Constraint(json.dumps({"enum": ["zebra"]}))
    told = await ask(client, chat(1, "Hello!", constraint=constraint, logprobs=1, sampling=GREEDY))
    assert json.loads(told.text()) == "zebra"
    assert sum(entry.logprob or 0.0 for entry in told.logprobs()) < -5  # nobody would have said it


# --- Tools: this model's template knows none, so they are described ---------------------------------------------------


@pytest.mark.parametrize("sampling", [GREEDY, WILD], ids=["greedy", "wild"])
async def test_a_required_call_is_made_with_arguments_by_its_schema(client: Client, sampling: Sampling) -> None:
    request = chat(
        1,
        "What is the weather in Paris?",
        tools=(WEATHER, NOW),
        tool_choice=ToolChoice.REQUIRED,
        parallel_tool_calls=False,
        sampling=sampling,
    )
    told = await ask(client, request)
    ((name, arguments),) = told.calls()
    assert told.text() == "" and told.finishes() == [(0, FinishReason.TOOL_CALLS)]
    assert arguments == {} if name == "now" else {"city"} <= set(arguments) <= {"city", "unit"}


async def test_a_named_tool_is_called_and_arguments_come_in_parts(client: Client) -> None:
    request = chat(
        1,
        "What time is it?",
        tools=(NOW, WEATHER),
        tool_choice=ToolChoice.REQUIRED,
        forced_tool="get_weather",
        sampling=GREEDY,
    )
    told = await ask(client, request)
    assert [name for name, _ in told.calls()] == ["get_weather"]
    parts = [call for delta in told.deltas for call in delta.tool_calls]
    assert len(parts) > 2 and [call.id is not None for call in parts] == [True] + [False] * (len(parts) - 1)


async def test_tools_that_must_not_be_called_are_not_shown(client: Client) -> None:
    plain = await ask(client, chat(1, "Hello!", max_tokens=5, sampling=GREEDY))
    none = await ask(
        client, chat(2, "Hello!", max_tokens=5, sampling=GREEDY, tools=(WEATHER,), tool_choice=ToolChoice.NONE)
    )
    shown = await ask(client, chat(3, "Hello!", max_tokens=5, sampling=GREEDY, tools=(WEATHER,)))
    assert none.last.prompt_tokens == plain.last.prompt_tokens < shown.last.prompt_tokens


async def test_a_conversation_with_calls_and_results_goes_on(client: Client) -> None:
    call = ToolCall("call_1", "get_weather", '{"city": "Paris"}')
    request = Generate(
        id=1,
        request_id="r",
        messages=(
            ChatMessage("user", "What is the weather in Paris?"),
            ChatMessage("assistant", "", tool_calls=(call,)),
            ChatMessage("tool", "Sunny, 21 °C", tool_call_id="call_1"),
        ),
        tools=(WEATHER,),
        max_tokens=40,
        sampling=GREEDY,
    )
    told = await ask(client, request)
    assert isinstance(told.last, Finished) and (told.text() or told.calls())


async def test_a_wrong_schema_of_a_tool_is_named(client: Client) -> None:
    wrong = Tool(name="wrong", parameters='{"type": "object", "properties": {"a": {"type": "strnig"}}}')
    told = await ask(client, chat(1, "Hi", tools=(NOW, wrong), tool_choice=ToolChoice.REQUIRED))
    assert isinstance(told.last, Failed) and told.last.param == "tools[1].function.parameters"
    strict = Tool(name="strict", parameters='{"type": "array", "uniqueItems": true}', strict=True)
    told = await ask(client, chat(2, "Hi", tools=(strict,)))
    assert isinstance(told.last, Failed) and told.last.param == "tools[0].function.parameters"


async def test_a_gap_can_not_be_filled_by_a_model_that_never_learnt_it(client: Client) -> None:
    told = await ask(client, Generate(id=1, request_id="r", text="def add(", suffix="return a + b"))
    assert isinstance(told.last, Failed) and (told.last.status, told.last.param) == (400, "suffix")


async def test_many_kinds_of_answers_at_once_do_not_disturb_one_another(client: Client) -> None:
    constraint = Constraint(json.dumps(PERSON))
    one_call: dict[str, Any] = {"tool_choice": ToolChoice.REQUIRED, "parallel_tool_calls": False}
    requests = [
        chat(10, "Describe a person as JSON.", constraint=constraint, sampling=WILD),
        chat(11, "What is the weather?", tools=(WEATHER,), sampling=GREEDY, **one_call),
        chat(12, "Say hello.", max_tokens=10, sampling=GREEDY),
        chat(13, "Write.", n=3, max_tokens=10, logprobs=1),
    ]
    client.send(*requests)
    person, call, hello, choices = [Told(await client.until(each.id, (Finished, Failed))) for each in requests]
    assert set(json.loads(person.text())) == {"name", "age"}
    assert [name for name, _ in call.calls()] == ["get_weather"]
    assert hello.text() and not hello.logprobs()
    assert [index for index, _ in choices.finishes()] == [0, 1, 2] and choices.logprobs(2)
