"""Tools, and what an answer must be."""

import json
from typing import Any

import pytest

from inference.protocol import Constraint, ToolChoice
from tests.unit.gateway.parsing import chat, fault

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}


class TestTools:
    def test_tools_are_taken_with_their_schemas(self) -> None:
        request = chat(
            tools=[
                {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": SCHEMA}},
                {"type": "function", "function": {"name": "now", "strict": True}},
            ],
            parallel_tool_calls=False,
        )
        add, now = request.tools
        assert (add.name, add.description, json.loads(add.parameters), add.strict) == ("add", "Adds.", SCHEMA, False)
        assert (now.name, now.description, now.parameters, now.strict) == ("now", "", "", True)
        assert not request.parallel_tool_calls and request.tool_choice is ToolChoice.AUTO

    @pytest.mark.parametrize(
        ("choice", "expected"),
        [
            ("none", (ToolChoice.NONE, None)),
            ("auto", (ToolChoice.AUTO, None)),
            ("required", (ToolChoice.REQUIRED, None)),
            ({"type": "function", "function": {"name": "add"}}, (ToolChoice.REQUIRED, "add")),
        ],
    )
    def test_the_choice_among_them(self, choice: Any, expected: tuple[ToolChoice, str | None]) -> None:
        request = chat(tools=[TOOL], tool_choice=choice)
        assert (request.tool_choice, request.forced_tool) == expected

    @pytest.mark.parametrize(
        ("given", "param", "words"),
        [
            ({"tools": {}}, "tools", "an array of tools"),
            ({"tools": [5]}, "tools[0]", "an object"),
            ({"tools": [{"type": "retrieval"}]}, "tools[0].type", "must be 'function'"),
            ({"tools": [{"type": "function"}]}, "tools[0].function", "an object with 'name'"),
            ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", "a string"),
            ({"tools": [TOOL, {"type": "function", "function": {"name": "a b"}}]}, "tools[1].function.name", "letters"),
            ({"tools": [TOOL, TOOL]}, "tools[1].function.name", "its own name"),
            ({"tools": [TOOL] * 129}, "tools", "at most 128"),
            (
                {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
                "tools[0].function.parameters",
                "a JSON schema",
            ),
            (
                {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"x": "y" * 70_000}}}]},
                "tools[0].function.parameters",
                "at most 65536",
            ),
            ({"tool_choice": "required"}, "tool_choice", "no 'tools'"),
            ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice", "'none', 'auto', 'required'"),
            ({"tools": [TOOL], "tool_choice": 1}, "tool_choice", "an object that names a tool"),
            ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type", "'function'"),
            (
                {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "sub"}}},
                "tool_choice.function.name",
                "one of the tools",
            ),
        ],
    )
    def test_what_is_wrong_is_named(self, given: dict[str, Any], param: str, words: str) -> None:
        error = fault(chat, **given)
        assert error.param == param and words in error.message

    def test_older_forms_are_refused_with_the_newer_ones(self) -> None:
        assert "tools" in fault(chat, functions=[{"name": "f"}]).message
        assert chat(functions=[], function_call="auto") == chat()


class TestAnswers:
    def test_the_form_of_the_answer(self) -> None:
        assert chat(response_format={"type": "text"}).constraint is None
        assert chat(response_format={"type": "json_object"}).constraint == Constraint()
        named = {"name": "answer", "schema": SCHEMA}
        loose = chat(response_format={"type": "json_schema", "json_schema": named}).constraint
        strict = chat(response_format={"type": "json_schema", "json_schema": named | {"strict": True}}).constraint
        assert loose is not None and strict is not None
        assert json.loads(loose.schema or "") == SCHEMA
        assert (loose.strict, strict.strict) == (False, True)

    @pytest.mark.parametrize(
        ("form", "param", "words"),
        [
            ("json", "response_format", "an object"),
            ({"type": "xml"}, "response_format.type", "'text', 'json_object' or 'json_schema'"),
            ({"type": "json_schema"}, "response_format.json_schema", "an object with"),
            ({"type": "json_schema", "json_schema": {}}, "response_format.json_schema.schema", "a JSON schema"),
            (
                {"type": "json_schema", "json_schema": {"schema": {}, "strict": 1}},
                "response_format.json_schema.strict",
                "true or false",
            ),
        ],
    )
    def test_a_wrong_form_is_named(self, form: Any, param: str, words: str) -> None:
        error = fault(chat, response_format=form)
        assert error.param == param and words in error.message

    def test_probabilities_are_asked_for(self) -> None:
        assert chat(logprobs=True).logprobs == 0
        assert chat(logprobs=True, top_logprobs=20).logprobs == 20
        assert chat().logprobs is None
        assert fault(chat, top_logprobs=2).param == "top_logprobs"
        assert "from 0 to 20" in fault(chat, logprobs=True, top_logprobs=21).message

    def test_up_to_sixteen_choices(self) -> None:
        assert chat(n=16).choices == 16
        assert "from 1 to 16" in fault(chat, n=17).message
