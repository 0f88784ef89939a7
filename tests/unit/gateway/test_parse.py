"""Bodies in, frozen requests out; each fault names its field and says what would be right."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.gateway import parse
from inference.protocol import ChatMessage, Generate, ToolCall, encode_frame
from registry.errors import InvalidRequest
from tests.unit.gateway.parsing import HELLO, chat, fault

CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


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
            (HELLO * 10_001, "messages", "at most 10000 messages, not 10001"),
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
