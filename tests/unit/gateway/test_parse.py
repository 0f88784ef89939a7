"""Bodies in, frozen requests out; each fault names its field and says what would be right."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.gateway import parse
from inference.protocol import ChatMessage, Constraint, Generate, Sampling, ToolCall, ToolChoice, encode_frame
from registry.errors import InvalidRequest

HELLO = [{"role": "user", "content": "Hello!"}]
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}


def chat(**fields: Any) -> parse.InferenceRequest:
    return parse.chat(json.dumps({"messages": HELLO} | fields).encode())


def completion(**fields: Any) -> parse.InferenceRequest:
    return parse.completion(json.dumps({"prompt": "Once"} | fields).encode())


def fault(make: Any, **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        make(**fields)
    assert caught.value.status == 400
    assert caught.value.type == "invalid_request_error"
    return caught.value


class TestBody:
    @pytest.mark.parametrize(
        ("body", "where"),
        [
            (b"", "it is empty"),
            (b"  ", "it is empty"),
            (b'{"model": "auto",}', "byte 17"),
            (b'{"model": NaN}', "byte 10"),
            (b'{"model": Infinity}', "byte 10"),
            (b'{"temperature": 1e999}', "out of range"),
            (b'{"model": "au', "ends too early, at byte 13"),
            (b'{"a": 1} {', "byte 10"),
            (b'{"a": "\xff"}', "byte 7 is not UTF-8"),
            (b'{"a": "\xd9', "byte 7 is not UTF-8"),
            (b'{"a": "\xed\xa0\x80"}', "byte 7 is not UTF-8"),
            (b'{"a": "\\ud800"}', "lacks its other half"),
            (b"\xef\xbb\xbf{}", "byte 0"),
            (b'{"a":' + b"[" * 100_000, "nested too deeply"),
            (b"{'a': 1}", "byte 1"),
        ],
    )
    def test_malformed_json_is_told_with_its_place(self, body: bytes, where: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            parse.chat(body)
        assert where in caught.value.message
        assert caught.value.message.startswith("The request's body is not valid JSON: ")

    @pytest.mark.parametrize("body", [b"[]", b'"text"', b"1", b"null", b"true"])
    def test_json_that_is_no_object_is_refused(self, body: bytes) -> None:
        with pytest.raises(InvalidRequest, match="must be a JSON object"):
            parse.chat(body)

    @given(st.binary(max_size=300))
    def test_whatever_the_bytes_are_the_answer_is_a_request_or_a_fault(self, body: bytes) -> None:
        for parser in (parse.chat, parse.completion):
            try:
                parser(body)
            except InvalidRequest as error:
                assert error.message

    # The first draw of arbitrary text builds tables of Unicode, which takes a second.
    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.dictionaries(
            st.sampled_from([*parse._CHAT, *parse._COMPLETION, "other"]),
            st.recursive(
                st.none()
                | st.booleans()
                | st.integers()
                | st.floats(allow_nan=False, allow_infinity=False)
                | st.text(),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
                max_leaves=6,
            ),
        )
    )
    def test_whatever_the_fields_hold_the_worker_gets_what_it_can_read_or_nothing(self, body: dict[str, Any]) -> None:
        try:
            raw = json.dumps(body).encode()
            request = parse.chat(raw)
        except InvalidRequest:
            return
        encode_frame([Generate(id=1, request_id="r", messages=request.messages, sampling=request.sampling)])


class TestMessages:
    def test_a_chat_becomes_messages(self) -> None:
        request = chat(model="auto", messages=[{"role": "system", "content": "Be kind."}, *HELLO])
        assert request.messages == (ChatMessage("system", "Be kind."), ChatMessage("user", "Hello!"))
        assert (request.kind, request.model, request.max_tokens, request.stream) == ("chat", "auto", None, False)

    def test_a_developer_message_is_a_system_message(self) -> None:
        request = chat(messages=[{"role": "developer", "content": "Be kind."}])
        assert request.messages == (ChatMessage("system", "Be kind."),)

    def test_text_parts_are_joined(self) -> None:
        parts = [{"type": "text", "text": "مرحبا "}, {"type": "text", "text": "🙂"}]
        assert chat(messages=[{"role": "user", "content": parts}]).messages == (ChatMessage("user", "مرحبا 🙂"),)

    def test_names_are_kept(self) -> None:
        request = chat(messages=[{"role": "user", "content": "Hi", "name": "Ada"}])
        assert request.messages == (ChatMessage("user", "Hi", "Ada"),)

    def test_calls_their_answers_and_thoughts_are_kept(self) -> None:
        request = chat(
            messages=[
                {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "Hm."},
                {"role": "tool", "content": "4", "tool_call_id": "call_1"},
                {"role": "assistant", "content": "Four.", "tool_calls": None},
            ]
        )
        assert request.messages == (
            ChatMessage("assistant", "", tool_calls=(ToolCall("call_1", "add", '{"a": 1}'),), reasoning="Hm."),
            ChatMessage("tool", "4", tool_call_id="call_1"),
            ChatMessage("assistant", "Four."),
        )

    def test_empty_content_is_content(self) -> None:
        assert chat(messages=[{"role": "user", "content": ""}]).messages == (ChatMessage("user", ""),)

    @pytest.mark.parametrize(
        ("messages", "param", "words"),
        [
            (None, "messages", "is missing"),
            ([], "messages", "at least one message"),
            ("hi", "messages", "must be an array of messages, not a string"),
            ({}, "messages", "not an object"),
            (["hi"], "messages[0]", "must be an object"),
            ([*HELLO, {"content": "x"}], "messages[1].role", "is missing; it is one of: system, developer"),
            ([{"role": "wizard", "content": "x"}], "messages[0].role", "must be one of: system, developer, user"),
            ([{"role": "function", "content": "x"}], "messages[0].role", "not 'function'"),
            ([{"role": 7, "content": "x"}], "messages[0].role", "must be a string, not a number"),
            ([{"role": "user"}], "messages[0].content", "is missing"),
            ([{"role": "user", "content": None}], "messages[0].content", "is missing"),
            ([{"role": "user", "content": 7}], "messages[0].content", "not a number"),
            ([{"role": "user", "content": []}], "messages[0].content", "at least one part"),
            ([{"role": "user", "content": ["x"]}], "messages[0].content[0]", "must be an object"),
            ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text", "must be a string"),
            (
                [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}],
                "messages[0].content[0].type",
                "take text only",
            ),
            ([{"role": "user", "content": "x", "name": ""}], "messages[0].name", "must not be empty"),
            ([{"role": "tool", "content": "x"}], "messages[0].tool_call_id", "id of the call"),
            ([{"role": "assistant", "content": None}], "messages[0].content", "is missing"),
            (
                [{"role": "user", "content": "x", "tool_calls": [CALL]}],
                "messages[0].tool_calls",
                "of the assistant only",
            ),
            ([{"role": "assistant", "tool_calls": {}, "content": 5}], "messages[0].content", "not a number"),
            ([{"role": "assistant", "tool_calls": "x"}], "messages[0].tool_calls", "an array of calls"),
            ([{"role": "assistant", "tool_calls": [{"id": "1"}]}], "messages[0].tool_calls[0].function", "an object"),
            (
                [{"role": "assistant", "tool_calls": [CALL | {"id": None}]}],
                "messages[0].tool_calls[0].id",
                "must be a string",
            ),
            (
                [{"role": "assistant", "tool_calls": [CALL | {"function": {"name": "f"}}]}],
                "messages[0].tool_calls[0].function.arguments",
                "must be a string",
            ),
            (
                [{"role": "assistant", "content": "", "function_call": {"name": "f"}}],
                "messages[0].function_call",
                "give 'tool_calls'",
            ),
        ],
    )
    def test_a_wrong_message_is_named(self, messages: Any, param: str, words: str) -> None:
        error = fault(chat, messages=messages)
        assert error.param == param
        assert words in error.message

    def test_missing_messages_are_named(self) -> None:
        with pytest.raises(InvalidRequest) as caught:
            parse.chat(b'{"model": "auto"}')
        assert caught.value.param == "messages"


class TestFields:
    def test_sampling_is_passed_on(self) -> None:
        request = chat(
            temperature=0,
            top_p=0.9,
            top_k=40,
            min_p=0.05,
            presence_penalty=-1,
            frequency_penalty=1.5,
            repetition_penalty=1.1,
            logit_bias={"50256": -100},
            seed=-5,
        )
        assert request.sampling == Sampling(
            temperature=0.0,
            top_p=0.9,
            top_k=40,
            min_p=0.05,
            presence_penalty=-1.0,
            frequency_penalty=1.5,
            repetition_penalty=1.1,
            logit_bias={50256: -100.0},
            seed=-5,
        )

    def test_sampling_defaults_are_llama_cpps(self) -> None:
        request = chat()
        assert request.sampling == Sampling(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)
        assert (request.stop, request.priority, request.include_usage, request.ignored) == ((), 5, False, ())

    def test_null_is_absent(self) -> None:
        assert chat(temperature=None, stop=None, max_tokens=None, stream=None, model=None, tools=None) == chat()

    @pytest.mark.parametrize(
        ("field", "value", "words"),
        [
            ("temperature", 2.1, "from 0 to 2, not 2.1"),
            ("temperature", -0.1, "from 0 to 2"),
            ("temperature", "hot", "must be a number, not a string"),
            ("temperature", True, "must be a number, not a boolean"),
            ("top_p", 0, "greater than 0 and at most 1"),
            ("top_p", 1.01, "at most 1"),
            ("min_p", -0.01, "from 0 to 1"),
            ("top_k", -1, "from 0 to"),
            ("top_k", 1.5, "must be a whole number, not a fraction"),
            ("presence_penalty", 2.5, "from -2 to 2"),
            ("frequency_penalty", -2.5, "from -2 to 2"),
            ("repetition_penalty", 0, "greater than 0"),
            ("seed", 2**63, "from -9223372036854775808"),
            ("seed", "x", "must be a whole number, not a string"),
            ("max_tokens", 0, "from 1 to"),
            ("max_tokens", -5, "from 1 to"),
            ("max_tokens", 10**30, "from 1 to"),
            ("max_completion_tokens", 0, "from 1 to"),
            ("stop", "", "must not be empty"),
            ("stop", ["a", ""], "must not be empty"),
            ("stop", ["a", 5], "must be a string"),
            ("stop", ["x"] * 17, "at most 16"),
            ("stop", 5, "a string or an array"),
            ("logit_bias", [1], "must be an object"),
            ("logit_bias", {"x": 1}, "token ids"),
            ("logit_bias", {"9" * 5000: 1}, "token ids"),
            ("logit_bias", {"5": 101}, "from -100 to 100"),
            ("stream", "yes", "true or false, not a string"),
            ("stream_options", {"include_usage": True}, 'only with "stream": true'),
            ("ignore_eos", 1, "true or false"),
            ("capabilities", "arabic", "an array of strings"),
            ("capabilities", [""], "must not be empty"),
            ("priority", 11, "from 0 to 10"),
            ("priority", -1, "from 0 to 10"),
            ("cache_salt", "", "must not be empty"),
            ("cache_salt", 5, "must be a string"),
            ("model", 5, "must be a string"),
            ("model", "", "must not be empty"),
        ],
    )
    def test_a_wrong_value_is_told_with_what_is_allowed(self, field: str, value: Any, words: str) -> None:
        error = fault(chat, **{field: value})
        assert (error.param or "").startswith(field)
        assert words in error.message
        assert error.message.startswith(f"'{error.param}'")

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("functions", [{}]),
            ("function_call", {"name": "f"}),
            ("modalities", ["audio"]),
        ],
    )
    def test_what_is_not_served_is_refused_rather_than_ignored(self, field: str, value: Any) -> None:
        error = fault(chat, **{field: value})
        assert error.param == field
        assert "not supported" in error.message

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("n", 1),
            ("logprobs", False),
            ("top_logprobs", 0),
            ("tools", []),
            ("tool_choice", "none"),
            ("response_format", {"type": "text"}),
            ("modalities", ["text"]),
        ],
    )
    def test_values_that_ask_for_nothing_pass(self, field: str, value: Any) -> None:
        assert chat(**{field: value}) == chat()

    def test_one_is_not_true(self) -> None:
        assert fault(chat, n=True).param == "n"

    def test_a_long_wrong_value_is_not_repeated_whole(self) -> None:
        assert len(fault(chat, messages=[{"role": "x" * 5000, "content": ""}]).message) < 300

    def test_max_completion_tokens_is_max_tokens(self) -> None:
        assert chat(max_completion_tokens=7).max_tokens == 7
        assert chat(max_tokens=7, max_completion_tokens=7).max_tokens == 7
        assert fault(chat, max_tokens=7, max_completion_tokens=8).param == "max_tokens"

    def test_usage_in_a_stream_is_asked_for(self) -> None:
        assert chat(stream=True, stream_options={"include_usage": True}).include_usage
        assert not chat(stream=True, stream_options={}).include_usage
        wrong = fault(chat, stream=True, stream_options={"include_usage": 1})
        assert wrong.param == "stream_options.include_usage"

    def test_one_stop_string_is_a_list_of_one(self) -> None:
        assert chat(stop="\n").stop == ("\n",)
        assert chat(stop=["a", "b"]).stop == ("a", "b")

    def test_our_own_fields_are_understood(self) -> None:
        request = chat(capabilities=["arabic_nlp"], priority=9, cache_salt="s", ignore_eos=True)
        assert request.capabilities == {"arabic_nlp"}
        assert (request.priority, request.cache_salt, request.ignore_eos) == (9, "s", True)

    def test_unknown_fields_are_named(self) -> None:
        request = chat(user="ada", messages=[{"role": "user", "content": "x", "weight": 1, "name": "Ada"}])
        assert request.ignored == ("user", "messages[0].weight")


class TestCompletion:
    def test_a_prompt_is_text(self) -> None:
        request = completion(echo=True)
        assert (request.kind, request.text, request.tokens, request.echo) == ("completion", "Once", None, True)

    def test_a_completion_has_16_tokens_unless_it_says_more(self) -> None:
        assert completion().max_tokens == 16
        assert completion(max_tokens=0).max_tokens == 0

    def test_several_prompts_have_choices_each(self) -> None:
        request = completion(prompt=["a", "b", "c"], n=2, best_of=2)
        assert (request.text, request.further_prompts, request.choices) == ("a", ("b", "c"), 6)
        request = completion(prompt=[[1, 2], [3]])
        assert (request.tokens, request.further_prompts, request.choices) == ((1, 2), ((3,),), 2)

    def test_probabilities_a_suffix_and_an_echo_are_asked_for(self) -> None:
        assert completion(logprobs=0).logprobs == 0
        assert completion().logprobs is None
        assert completion(suffix="end").suffix == "end"
        assert completion(suffix="").suffix is None

    @pytest.mark.parametrize(
        ("given", "param", "words"),
        [
            ({"best_of": 2}, "best_of", "equal to 'n'"),
            ({"n": 2, "best_of": 3}, "best_of", "equal to 'n'"),
            ({"logprobs": 6}, "logprobs", "from 0 to 5"),
            ({"logprobs": True}, "logprobs", "a whole number"),
            ({"n": 17}, "n", "from 1 to 16"),
            ({"echo": True, "logprobs": 1}, "echo", "together with 'logprobs'"),
            ({"echo": True, "suffix": "x"}, "echo", "together with 'suffix'"),
            ({"prompt": ["x"] * 33}, "prompt", "at most 32 prompts"),
        ],
    )
    def test_what_can_not_be_had_is_told_with_what_can(self, given: dict[str, Any], param: str, words: str) -> None:
        error = fault(completion, **given)
        assert error.param == param and words in error.message

    @pytest.mark.parametrize("prompt", [["Once"], "Once"])
    def test_an_array_of_one_prompt_is_that_prompt(self, prompt: Any) -> None:
        assert completion(prompt=prompt).text == "Once"

    @pytest.mark.parametrize("prompt", [[1, 2, 3], [[1, 2, 3]]])
    def test_a_prompt_may_be_token_ids(self, prompt: Any) -> None:
        request = completion(prompt=prompt)
        assert (request.text, request.tokens) == (None, (1, 2, 3))

    @pytest.mark.parametrize(
        ("prompt", "param", "words"),
        [
            (None, "prompt", "is missing"),
            ([], "prompt", "must not be empty"),
            ([[]], "prompt[0]", "must not be empty"),
            (["a", 5], "prompt[1]", "must be a string, not a number"),
            ([[1], []], "prompt[1]", "must not be empty"),
            ([1, "b"], "prompt[1]", "must be a token id"),
            ([1, -1], "prompt[1]", "must be a token id"),
            ([[1, True]], "prompt[0][1]", "must be a token id"),
            ([2**31], "prompt[0]", "must be a token id"),
            ([[["x"]]], "prompt[0][0]", "must be a token id"),
            ({}, "prompt", "not an object"),
            (5, "prompt", "not a number"),
        ],
    )
    def test_a_wrong_prompt_is_named(self, prompt: Any, param: str, words: str) -> None:
        error = fault(completion, prompt=prompt)
        assert error.param == param
        assert words in error.message

    def test_fields_of_chats_are_unknown_here(self) -> None:
        assert completion(messages=HELLO, tools=[]).ignored == ("messages", "tools")


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
