"""What models write, in every family: calls are found, and what is none stays text to the last character."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine.tools.forms import Form
from inference.engine.tools.gemma import FUNCTION_GEMMA, GEMMA4
from inference.engine.tools.generic import GENERIC
from inference.engine.tools.hermes import HERMES
from inference.engine.tools.llama3 import LLAMA3
from inference.engine.tools.mistral import MISTRAL, MISTRAL_NAMED
from inference.engine.tools.parser import ToolParser
from inference.protocol import ToolCallDelta

TOOLS = frozenset({"get_weather", "add", "now"})
FORMS = (HERMES, LLAMA3, MISTRAL, MISTRAL_NAMED, FUNCTION_GEMMA, GEMMA4, GENERIC)


@dataclass
class Read:
    text: str
    calls: list[tuple[str, str]]
    """Name and arguments."""


def read(form: Form, pieces: Sequence[str]) -> Read:
    parser = ToolParser(form, TOOLS)
    text, deltas = "", list[ToolCallDelta]()
    for piece in pieces:
        more, calls = parser.push(piece)
        text += more
        deltas += calls
    more, calls = parser.finish()
    text += more
    deltas += calls
    names: list[str] = []
    arguments: list[str] = []
    for delta in deltas:
        if delta.name is not None:
            assert delta.index == len(names) and delta.id
            names.append(delta.name)
            arguments.append("")
        assert delta.id is None or delta.name is not None
        arguments[delta.index] += delta.arguments
    assert parser.calls == len(names)
    return Read(text, list(zip(names, arguments, strict=True)))


def read_however_cut(form: Form, output: str) -> Read:
    """The same whether the output arrives whole, letter by letter, or in two pieces cut anywhere."""
    whole = read(form, [output])
    assert read(form, list(output)) == whole
    for cut in range(1, len(output)):
        assert read(form, [output[:cut], output[cut:]]) == whole
    return whole


PARIS = '{"city": "Paris \\" } ]", "days": [1, {"a": 2}]}'
WEATHER = ("get_weather", PARIS)
ADD = ("add", '{"a": 1, "b": -2.5}')


def hermes(*calls: tuple[str, str]) -> str:
    return "\n".join(
        f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>' for name, arguments in calls
    )


CALLS: list[tuple[Form, str, str, list[tuple[str, str]]]] = [
    (HERMES, hermes(WEATHER), "", [WEATHER]),
    (HERMES, hermes(WEATHER, ADD), "", [WEATHER, ADD]),
    (HERMES, "Let me see.\n" + hermes(ADD), "Let me see.", [ADD]),
    (HERMES, hermes(ADD) + "\n\nDone.", "\n\nDone.", [ADD]),
    (HERMES, hermes(ADD).removesuffix("\n</tool_call>"), "", [ADD]),
    (HERMES, '<tool_call>{"arguments": {"a": 1}, "name": "add"}</tool_call>', "", [("add", '{"a": 1}')]),
    (HERMES, '<tool_call>{"name": "now"}</tool_call>', "", [("now", "{}")]),
    (HERMES, '<tool_call>{"name": "now", "arguments": null}</tool_call>', "", [("now", "{}")]),
    (HERMES, '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [("add", '{"a": 1}')]),
    (HERMES, '<tool_call>{"id": 7, "type": "function", "name": "now", "arguments": {}}', "", [("now", "{}")]),
    (LLAMA3, '{"name": "add", "parameters": {"a": 1, "b": -2.5}}', "", [ADD]),
    (LLAMA3, '\n\n{"type": "function", "name": "add", "parameters": {"a": 1, "b": -2.5}}\n', "", [ADD]),
    (LLAMA3, '<|python_tag|>{"name": "add", "parameters": {"a": 1, "b": -2.5}}', "", [ADD]),
    (
        LLAMA3,
        '{"name": "add", "parameters": {"a": 1}}; {"name": "now", "parameters": {}}',
        "",
        [("add", '{"a": 1}'), ("now", "{}")],
    ),
    (
        MISTRAL,
        f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {PARIS}}}, {{"name": "now", "arguments": {{}}}}]',
        "",
        [WEATHER, ("now", "{}")],
    ),
    (MISTRAL, 'Well [TOOL_CALLS][{"name": "now", "arguments": {}, "id": "abcdefghi"}]', "Well", [("now", "{}")]),
    (MISTRAL_NAMED, f"[TOOL_CALLS]get_weather[ARGS]{PARIS}", "", [WEATHER]),
    (MISTRAL_NAMED, f"[TOOL_CALLS]get_weather[CALL_ID]abc123XYZ[ARGS]{PARIS}", "", [WEATHER]),
    (
        MISTRAL_NAMED,
        '[TOOL_CALLS]add[ARGS]{"a": 1, "b": -2.5}[TOOL_CALLS]now{}',
        "",
        [ADD, ("now", "{}")],
    ),
    (
        FUNCTION_GEMMA,
        '<start_function_call>call:get_weather{city:<escape>Paris, "FR"<escape>,days:3}<end_function_call>',
        "",
        [("get_weather", '{"city": "Paris, \\"FR\\"", "days": 3}')],
    ),
    (
        FUNCTION_GEMMA,
        "<start_function_call>call:now{}<end_function_call><start_function_call>call:add{a:1,b:-2.5}<end_function_call>",
        "",
        [("now", "{}"), ADD],
    ),
    (
        GEMMA4,
        'Sure.<|tool_call>call:add{a:[1,true,{x:<|"|>y}<|"|>}],b:null}<tool_call|>',
        "Sure.",
        [("add", '{"a": [1, true, {"x": "y}"}], "b": null}')],
    ),
    (GEMMA4, "<|tool_call>call:now{}", "", [("now", "{}")]),
    (GENERIC, hermes(ADD), "", [ADD]),
    (GENERIC, '{"name": "add", "arguments": {"a": 1, "b": -2.5}}', "", [ADD]),
    (GENERIC, '```json\n{"name": "add", "parameters": {"a": 1, "b": -2.5}}\n```', "", [ADD]),
    (GENERIC, f"```json\n{{}}\n```\n{hermes(ADD)}", "```json\n{}\n```", [ADD]),
]


@pytest.mark.parametrize(("form", "output", "text", "calls"), CALLS)
def test_calls_are_found_however_the_output_is_cut(
    form: Form, output: str, text: str, calls: list[tuple[str, str]]
) -> None:
    assert read_however_cut(form, output) == Read(text, calls)


TEXTS = [
    "",
    "Hello, world.",
    "  spaces and a newline \n",
    '{"answer": 42}',
    '{"name": "Ann", "age": 3}',
    '{"name": "Ann", "arguments": {"a": 1}}',
    '{"name": "add"}',
    '{"name": 5, "arguments": {}}',
    "{not json",
    "{",
    "a < b and <tool or <tool_cal",
    "<tool_call>hello</tool_call>",
    '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>',
    '<tool_call>{"name": "add", "arguments": 5}</tool_call>',
    '<tool_call>{"name": "add", "arguments": "no json"}</tool_call>',
    '<tool_call>{"name": "add" "arguments": {}}</tool_call>',
    "<tool_call>",
    "In Hermes' form, <tool_call> comes first.",
    "[TOOL_CALLS] is a marker",
    "[TOOL_CALLS] [1, 2]",
    "[TOOL_CALLS]unknown[ARGS]{}",
    "<|python_tag|>print('hi')",
    "<start_function_call>call me<end_function_call>",
    "<start_function_call>call:unknown{}<end_function_call>",
    "<start_function_call>call:add{a:<escape>open<end_function_call>",
    "<start_function_call>call:add",
    "<|tool_call>call:add{a:1",
    "```json\n[1, 2]\n```",
    '```json\n{"a": 1}\n```\nand so on',
    "```\ncode\n```",
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@pytest.mark.parametrize("output", TEXTS)
def test_what_only_looks_like_a_call_stays_text(form: Form, output: str) -> None:
    assert read_however_cut(form, output) == Read(output, [])


PARTS = [
    *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "```json", "```", "call:", "<escape>"),
    *("<start_function_call>", "<end_function_call>", '{"name": ', '"add"', ', "arguments": ', "{", "}", "[", "]", ","),
    *(" ", "\n", "é🙂", "word", '"', "\\", "1", "null", ":", ";"),
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FORMS), st.lists(st.sampled_from(PARTS), max_size=14), st.data())
def test_whatever_is_written_the_cut_does_not_matter_and_text_without_calls_is_whole(
    form: Form, parts: list[str], data: st.DataObject
) -> None:
    output = "".join(parts)
    whole = read(form, [output])
    cuts = sorted(data.draw(st.sets(st.integers(0, len(output)), max_size=6)) | {0, len(output)})
    assert read(form, [output[a:b] for a, b in itertools.pairwise(cuts)]) == whole
    if not whole.calls:
        assert whole.text == output


def test_arguments_stream_as_they_come_once_the_name_is_known() -> None:
    parser = ToolParser(HERMES, TOOLS)
    assert parser.push('<tool_call>\n{"name": "add", "argu') == ("", ())
    (first,) = parser.push('ments": {"a"')[1]
    assert (first.index, first.name, first.arguments) == (0, "add", '{"a"')
    (second,) = parser.push(": 1")[1]
    assert (second.index, second.id, second.name, second.arguments) == (0, None, None, ": 1")
    assert parser.complete_calls == 0
    parser.push("}}")
    assert parser.complete_calls == 1


def test_a_call_that_is_cut_off_stays_a_call() -> None:
    assert read(HERMES, ['<tool_call>{"name": "add", "arguments": {"a": 1']) == Read("", [("add", '{"a": 1')])


def test_ids_are_as_the_templates_want_them() -> None:
    def an_id(form: Form, output: str) -> str:
        ((delta,),) = [ToolParser(form, TOOLS).push(output)[1]]
        assert delta.id is not None
        return delta.id

    assert an_id(HERMES, '<tool_call>{"name": "now", "arguments": {}}').startswith("call_")
    mistral = an_id(MISTRAL, '[TOOL_CALLS][{"name": "now", "arguments": {}}]')
    assert len(mistral) == 9 and mistral.isalnum()


def test_megabytes_of_almost_a_call_take_no_time() -> None:
    output = '<tool_call>{"name": "add", "arguments": {"a": "' + "x" * 200_000 + '"}}</tool_call>'
    assert json.loads(read(HERMES, [output[i : i + 5] for i in range(0, len(output), 5)]).calls[0][1])
