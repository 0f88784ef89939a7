"""Forced calls: what a grammar of calls allows is what the parser of the same family reads."""

import json
from collections.abc import Mapping

import numpy as np
import pytest

from inference.engine.constraints import Constraint, Grammars
from inference.engine.sampling import Sampler
from inference.engine.schemas import any_object, parsed
from inference.engine.tools.forms import Form, NamedSchema
from inference.engine.tools.gemma import FUNCTION_GEMMA, GEMMA4
from inference.engine.tools.generic import GENERIC
from inference.engine.tools.grammars import MAX_CALLS, forced, free
from inference.engine.tools.hermes import HERMES
from inference.engine.tools.llama3 import LLAMA3
from inference.engine.tools.mistral import MISTRAL, MISTRAL_NAMED
from inference.engine.tools.parser import ToolParser
from inference.protocol import Sampling

FORMS = (HERMES, LLAMA3, MISTRAL, MISTRAL_NAMED, FUNCTION_GEMMA, GEMMA4, GENERIC)
MARKERS = sorted({marker for form in FORMS for marker in form.markers})
END = 256


class Letters:
    """Bytes, an end token, and every marker as a control token behind them."""

    vocabulary_size = 257 + len(MARKERS)

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    def is_end(self, token: int) -> bool:
        return token == END

    def tokenize(self, text: str, *, add_special: bool) -> list[int]:
        return list(text.encode())


CONTROLS = {marker: 257 + place for place, marker in enumerate(MARKERS)}
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 5},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "unit": {"enum": ["C", "F"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
TOOLS = [NamedSchema("get_weather", parsed(json.dumps(SCHEMA), strict=True)), NamedSchema("now", NOTHING)]


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(Letters())


def shown(tokens: list[int]) -> str:
    text = b"".join(bytes([token]) if token < 256 else MARKERS[token - 257].encode() for token in tokens)
    return text.decode("utf-8", "replace")


def drawn(constraint: Constraint, seed: int, most: int = 2000) -> str:
    """What a model writes that knows nothing but the grammar, and would rather end than not."""
    sampler = Sampler(Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=seed), [], constraint=constraint)
    logits = np.zeros(Letters.vocabulary_size, np.float32)
    logits[[END, ord("}"), ord('"'), ord("]"), ord("<")]] = 2.0
    tokens: list[int] = []
    while not sampler.complete:
        token = sampler.choose(logits)
        assert not sampler.fault
        if token == END:
            break
        tokens.append(token)
        assert len(tokens) < most
    return shown(tokens)


def calls_in(form: Form, output: str) -> tuple[str, list[tuple[str, object]]]:
    parser = ToolParser(form, frozenset({"get_weather", "now"}))
    pushed, finished = parser.push(output), parser.finish()
    names: list[str] = []
    arguments: list[str] = []
    for delta in pushed[1] + finished[1]:
        if delta.name is not None:
            names.append(delta.name)
            arguments.append("")
        arguments[delta.index] += delta.arguments
    return pushed[0] + finished[0], list(zip(names, map(json.loads, arguments), strict=True))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@pytest.mark.parametrize("controls", [CONTROLS, {}], ids=["control tokens", "text"])
def test_a_forced_answer_is_calls_and_nothing_else(grammars: Grammars, form: Form, controls: Mapping[str, int]) -> None:
    grammar = forced(form, TOOLS, several=True, controls=controls)
    seen = set()
    for seed in range(12):
        text, calls = calls_in(form, drawn(grammars.compile(grammar), seed))
        assert text == "" and 1 <= len(calls) <= (MAX_CALLS if form.several else 1)
        for name, arguments in calls:
            seen.add(name)
            assert isinstance(arguments, dict)
            if name == "now":
                assert arguments == {}
                continue
            assert {"city", "unit"} <= set(arguments) <= {"city", "unit", "days"}
            assert arguments["unit"] in ("C", "F") and isinstance(arguments["city"], str)
            assert isinstance(arguments.get("days", 1), int)
    assert seen == {"get_weather", "now"}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_one_call_is_one_call(grammars: Grammars, form: Form) -> None:
    grammar = forced(form, TOOLS, several=False, controls=CONTROLS)
    assert {len(calls_in(form, drawn(grammars.compile(grammar), seed))[1]) for seed in range(12)} == {1}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_a_named_tool_is_the_one_that_is_called(grammars: Grammars, form: Form) -> None:
    grammar = forced(form, TOOLS[1:], several=False, controls=CONTROLS)
    assert calls_in(form, drawn(grammars.compile(grammar), 0)) == ("", [("now", {})])


def test_calls_or_an_answer_by_a_schema(grammars: Grammars) -> None:
    grammar = forced(HERMES, TOOLS[1:], several=False, controls={}, or_answer=any_object())
    outputs = [drawn(grammars.compile(grammar), seed) for seed in range(20)]
    assert {output[0] for output in outputs} == {"<", "{"}
    assert all(isinstance(json.loads(output), dict) for output in outputs if output[0] == "{")


def follow(constraint: Constraint, output: str, controls: Mapping[str, int]) -> str:
    """As much of it as is allowed, markers being control tokens."""
    tokens: list[int] = []
    while output:
        marker = next((marker for marker in controls if output.startswith(marker)), "")
        taken = marker or output[0]
        for token in [controls[marker]] if marker else list(taken.encode()):
            if not np.isfinite(constraint.allow(np.zeros(Letters.vocabulary_size, np.float32))[token]):
                return shown(tokens)
            constraint.accept(token)
            tokens.append(token)
        output = output[len(taken) :]
    return shown(tokens)


FREE = [
    (HERMES, 'Hi.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome", "unit": "C"}}\n</tool_call>'),
    (GENERIC, '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>\n<tool_call>\n{"name": "now"'),
    (MISTRAL, '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Rome", "unit": "F"}}]'),
    (MISTRAL_NAMED, "Yes[TOOL_CALLS]now[ARGS]{}[TOOL_CALLS]now[ARGS]{}"),
    (FUNCTION_GEMMA, "<start_function_call>call:get_weather{city:<escape>Rome<escape>,unit:<escape>C<escape>}"),
    (LLAMA3, '{"name": "get_weather", "parameters": {"city": "Rome", "unit": "C"}}'),
    (LLAMA3, "Just text. {"),
    (HERMES, "Just text. <tool"),
]
WRONG = [
    (HERMES, '<tool_call>\n{"name": "', "unknown"),
    (HERMES, '<tool_call>\n{"name": "get_weather", "arguments": {"city": ', "5"),
    (MISTRAL, "[TOOL_CALLS]", "hello"),
    (MISTRAL_NAMED, "[TOOL_CALLS]", "hello"),
    (FUNCTION_GEMMA, "<start_function_call>call:", "unknown"),
    (GEMMA4, '<|tool_call>call:get_weather{city:<|"|>Rome<|"|>,unit:<|"|>', "X"),
    (LLAMA3, '{"name": "', "unknown"),
]


@pytest.mark.parametrize("controls", [CONTROLS, {}], ids=["control tokens", "text"])
@pytest.mark.parametrize(("form", "output"), FREE)
def test_beside_strict_tools_any_text_may_be_written(
    grammars: Grammars, form: Form, output: str, controls: Mapping[str, int]
) -> None:
    assert follow(grammars.compile(free(form, TOOLS, controls=controls)), output, controls) == output


@pytest.mark.parametrize("controls", [CONTROLS, {}], ids=["control tokens", "text"])
@pytest.mark.parametrize(("form", "right", "wrong"), WRONG)
def test_but_a_call_keeps_to_its_schema(
    grammars: Grammars, form: Form, right: str, wrong: str, controls: Mapping[str, int]
) -> None:
    grammar = free(form, TOOLS, controls=controls)
    assert follow(grammars.compile(grammar), right, controls) == right
    assert follow(grammars.compile(grammar), right + wrong, controls) == right
