"""From a chat template to how its model's answers are made and read, for each family."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from inference.engine.answers import AnswerRefused, Answers, Plan
from inference.engine.sampling import Sampler
from inference.engine.template import ChatTemplate, TemplateFault
from inference.engine.tools.families import form_of, knows_tools
from inference.protocol import (
    ChatMessage,
    Constraint,
    FinishReason,
    Generate,
    Sampling,
    Tool,
    ToolCall,
    ToolChoice,
)
from tests.unit.engine.chat_templates import FUNCTION_GEMMA, GEMMA, LLAMA, MISTRAL, PLAIN, QWEN

FAMILIES = {
    "hermes": QWEN,
    "llama3": LLAMA,
    "mistral": MISTRAL,
    "function-gemma": FUNCTION_GEMMA,
    "generic": PLAIN,
}
CONTROLS = ["[TOOL_CALLS]", "<start_function_call>", "<end_function_call>", "<escape>", "<|python_tag|>"]
END = 256


class Vocabulary:
    """All bytes, an end, and control tokens for the markers that have one in such models."""

    vocabulary_size = 257 + len(CONTROLS)

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    def is_end(self, token: int) -> bool:
        return token == END

    def tokenize(self, text: str, *, add_special: bool) -> list[int]:
        return [257 + CONTROLS.index(text)] if text in CONTROLS else list(text.encode())


WEATHER = Tool(
    name="get_weather",
    description="The weather.",
    parameters='{"type": "object", "properties": {"city": {"type": "string", "maxLength": 4}}, "required": ["city"]}',
)
ASKED = Generate(
    id=1,
    request_id="r",
    messages=(
        ChatMessage("user", "Rome?"),
        ChatMessage("assistant", "", tool_calls=(ToolCall("call_0123456789", "get_weather", '{"city": "Rome"}'),)),
        ChatMessage("tool", "Sunny", tool_call_id="call_0123456789"),
        ChatMessage("assistant", "Sunny."),
        ChatMessage("user", "And Oslo?"),
    ),
    tools=(WEATHER,),
)


def asked(**changes: Any) -> Generate:
    return Generate(**{field: getattr(ASKED, field) for field in ASKED.__struct_fields__} | changes)


def prompt(template: str, request: Generate) -> str:
    messages, tools = Answers(Vocabulary(), template).shown(request)
    return ChatTemplate(template, bos_token="<bos>", eos_token="<eos>").render(messages, tools)


def written(plan: Plan, seed: int = 0) -> tuple[str, list[tuple[str, Any]], FinishReason]:
    """Text and calls of a model that knows nothing, and would rather end than not."""
    output, vocabulary = plan.output(), Vocabulary()
    settings = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=seed)
    sampler = Sampler(settings, [], constraint=plan.constraint())
    logits = np.zeros(vocabulary.vocabulary_size, np.float32)
    logits[[END, ord("}"), ord('"'), ord("]"), ord("<")]] = 2.0
    sent = []
    while not sampler.complete and not output.stopped:
        token = sampler.choose(logits)
        if token == END:
            break
        sent.append(output.push(token, vocabulary.piece(token)))
    last, reason = output.finish(FinishReason.STOP)
    sent.append(last)
    calls: list[list[str]] = []
    for delta in (delta for each in sent for delta in each.tool_calls):
        if delta.name is not None:
            calls.append([delta.name, ""])
        calls[delta.index][1] += delta.arguments
    return "".join(each.text for each in sent), [(name, json.loads(text)) for name, text in calls], reason


@pytest.mark.parametrize(("name", "template"), FAMILIES.items(), ids=FAMILIES.keys())
def test_each_family_is_known_by_its_template(name: str, template: str) -> None:
    assert form_of(template).name == name
    assert knows_tools(template) == (name != "generic")


def test_what_is_no_family_is_served_by_the_generic_form() -> None:
    assert form_of(None).name == form_of(GEMMA).name == form_of("{{ tools }} in a way of its own").name == "generic"
    assert form_of(MISTRAL + "[ARGS]").name == "mistral-named"
    assert form_of("{{ tools }}<|tool_call>call:").name == "gemma4"


@pytest.mark.parametrize("template", FAMILIES.values(), ids=FAMILIES.keys())
def test_tools_calls_and_results_are_in_the_prompt(template: str) -> None:
    text = prompt(template, ASKED)
    assert "get_weather" in text and "The weather." in text
    assert text.count("Rome") >= 2 and "Sunny" in text and "And Oslo?" in text


def test_a_prompt_of_qwen_to_the_letter() -> None:
    assert prompt(QWEN, ASKED).endswith(
        "<|im_start|>user\nRome?<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
        "<|im_end|>\n<|im_start|>user\n<tool_response>\nSunny\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\nSunny.<|im_end|>\n<|im_start|>user\nAnd Oslo?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_ids_from_elsewhere_have_nine_letters_for_mistral_and_stay_pairs() -> None:
    text = prompt(MISTRAL, ASKED)
    id_of_call, id_of_result = text.partition('"id": "')[2][:9], text.partition('"call_id": "')[2][:9]
    assert id_of_call == id_of_result and id_of_call.isalnum()


def test_a_template_that_refuses_system_messages_still_gets_the_tools() -> None:
    answers = Answers(Vocabulary(), GEMMA)
    template = ChatTemplate(GEMMA, bos_token="", eos_token="")
    messages, tools = answers.shown(ASKED)
    assert tools == ()
    with pytest.raises(TemplateFault, match="System role"):
        template.render(messages, tools)
    others = answers.shown_without_system(messages)
    assert others is not None
    text = template.render(others, tools)
    assert text.startswith("<start_of_turn>user\nYou can call functions.") and "Rome?" in text
    assert "<tool_response>\nSunny" in text


def test_tools_that_must_not_be_called_are_neither_shown_nor_looked_for() -> None:
    request = asked(tool_choice=ToolChoice.NONE)
    answers = Answers(Vocabulary(), QWEN)
    assert answers.shown(request)[1] == ()
    plan = answers.plan(request, "")
    assert plan.reading.form is None and plan.grammar is None


@pytest.mark.parametrize("template", FAMILIES.values(), ids=FAMILIES.keys())
@pytest.mark.parametrize("forced", [None, "get_weather"], ids=["required", "named"])
def test_a_call_that_must_be_made_is_made_in_every_family(template: str, forced: str | None) -> None:
    request = asked(tool_choice=ToolChoice.REQUIRED, forced_tool=forced, parallel_tool_calls=False)
    plan = Answers(Vocabulary(), template).plan(request, "")
    for seed in range(5):
        text, calls, reason = written(plan, seed)
        assert (text, reason) == ("", FinishReason.TOOL_CALLS)
        ((name, arguments),) = calls
        assert name == "get_weather" and list(arguments) == ["city"]


def test_arguments_that_the_schema_does_not_name_are_kept_out_unless_it_lets_them_in() -> None:
    open_ended = Tool(name="f", parameters='{"type": "object", "properties": {}, "additionalProperties": true}')
    plan = Answers(Vocabulary(), QWEN).plan(asked(tools=(open_ended,), tool_choice=ToolChoice.REQUIRED), "")
    seen = {key for seed in range(20) for _, arguments in written(plan, seed)[1] for key in arguments}
    assert seen


def test_text_is_free_unless_something_is_to_be_held_to() -> None:
    answers = Answers(Vocabulary(), QWEN)
    assert answers.plan(asked(), "").grammar is None
    assert answers.plan(asked(tools=(Tool(name="f", strict=True),)), "").grammar is not None
    assert answers.plan(asked(tools=(), constraint=Constraint()), "").grammar is not None


def test_beside_tools_that_may_be_called_a_constrained_answer_is_a_call_or_the_answer() -> None:
    answer = Constraint(
        '{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": false}'
    )
    plan = Answers(Vocabulary(), QWEN).plan(asked(constraint=answer), "")
    outcomes = [written(plan, seed) for seed in range(20)]
    assert {text for text, calls, _ in outcomes if not calls} == {'{"a": 1}'}
    assert any(calls for _, calls, _ in outcomes)


def test_thoughts_are_looked_for_in_chats_of_models_that_think() -> None:
    answers = Answers(Vocabulary(), QWEN)
    assert answers.plan(asked(), "…<think>\n").output().thinking
    assert not answers.plan(asked(), "…assistant\n").output().thinking
    assert answers.plan(Generate(id=1, request_id="r", text="x"), "<think>").reading.thinking is None


def test_control_tokens_are_read_by_their_text_where_they_mark_calls() -> None:
    answers = Answers(Vocabulary(), FUNCTION_GEMMA)
    reading = answers.plan(asked(), "").reading
    assert reading.spelled[257 + CONTROLS.index("<escape>")] == b"<escape>"
    assert "<start_function_response>" in reading.stops
    plain = answers.plan(asked(tools=()), "").reading
    assert plain.spelled == {} and plain.stops == ()


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"constraint": Constraint('{"type": "x"}')}, "response_format.json_schema.schema"),
        ({"constraint": Constraint("[]")}, "response_format.json_schema.schema"),
        (
            {"tools": (WEATHER, Tool(name="f", parameters='{"type": "x"}', strict=True))},
            "tools[1].function.parameters",
        ),
        (
            {"tools": (Tool(name="f", parameters="[]"),), "tool_choice": ToolChoice.REQUIRED},
            "tools[0].function.parameters",
        ),
    ],
)
def test_a_schema_at_fault_is_named(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(AnswerRefused) as caught:
        Answers(Vocabulary(), QWEN).plan(asked(**changes), "")
    assert caught.value.param == param


def test_many_tools_of_many_arguments_are_refused_before_they_are_compiled() -> None:
    properties = {f"argument_{number}": {"type": "string"} for number in range(400)}
    parameters = json.dumps({"type": "object", "properties": properties})
    tools = tuple(Tool(name=f"tool_{number}", parameters=parameters) for number in range(40))
    with pytest.raises(AnswerRefused, match="together") as caught:
        Answers(Vocabulary(), QWEN).plan(asked(tools=tools, tool_choice=ToolChoice.REQUIRED), "")
    assert caught.value.param == "tools"


def test_each_choice_has_a_reader_and_a_place_in_the_grammar_of_its_own() -> None:
    plan = Answers(Vocabulary(), PLAIN).plan(asked(tools=(), constraint=Constraint()), "")
    first, second = plan.constraint(), plan.constraint()
    assert first is not None and second is not None and first is not second
    first.accept(ord("{"))
    assert np.isfinite(second.allow(np.zeros(Vocabulary.vocabulary_size, np.float32))[ord("{")])
    assert plan.output() is not plan.output()
    assert replace(plan, grammar=None).constraint() is None
