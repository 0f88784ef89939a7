"""Sampling and all other fields, and what only completions have."""

from typing import Any

import pytest

from inference.protocol import Sampling
from tests.unit.gateway.parsing import HELLO, chat, completion, fault


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
            ("stop", ["a", "x" * 1025], "at most 1024 characters, not 1025"),
            ("logit_bias", [1], "must be an object"),
            ("logit_bias", dict.fromkeys(map(str, range(1025)), 1), "at most 1024 tokens, not 1025"),
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
