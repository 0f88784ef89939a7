"""Prompts of a model that fills gaps, and prompts that tenants share."""

from typing import cast

import pytest

from inference.engine.input_checks import PromptRefused
from inference.engine.llama import Model
from inference.engine.prompts import Prompts
from inference.protocol import ChatMessage, Generate, Partition


class Infilling:
    """A vocabulary of bytes with the three tokens of a gap, and BOS in front of every text, as llama.cpp gives it."""

    vocabulary_size = 260
    chat_template: str | None = None
    infill_tokens: tuple[int, int, int] | None = (256, 257, 258)
    bos_text = eos_text = ""

    def tokenize(self, text: str, *, add_special: bool) -> list[int]:
        return [259] * add_special + list(text.encode())

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    def is_end(self, token: int) -> bool:
        return False

    def fewest_tokens(self, text_bytes: int) -> int:
        return text_bytes


def prompts(model: Infilling) -> Prompts:
    return Prompts(cast(Model, model), 64)


def request(**fields: object) -> Generate:
    return Generate(id=1, request_id="r", **fields)  # type: ignore[arg-type]


def test_a_gap_stands_behind_what_is_around_it() -> None:
    built = prompts(Infilling()).build(request(text="ab", suffix="yz", max_tokens=5))
    assert built.tokens == [259, 256, *b"ab", 257, *b"yz", 258]
    assert built.limit == len(built.tokens) + 5


def test_a_prompt_of_tokens_may_have_a_suffix_too() -> None:
    assert prompts(Infilling()).build(request(tokens=(1, 2), suffix="z")).tokens == [259, 256, 1, 2, 257, *b"z", 258]


def test_a_model_without_such_tokens_fills_no_gaps() -> None:
    model = Infilling()
    model.infill_tokens = None
    with pytest.raises(PromptRefused) as caught:
        prompts(model).build(request(text="a", suffix="z"))
    assert (caught.value.failed.status, caught.value.failed.param) == (400, "suffix")


def test_a_suffix_that_can_not_fit_is_refused_before_it_is_tokenized() -> None:
    with pytest.raises(PromptRefused) as caught:
        prompts(Infilling()).build(request(text="a", suffix="z" * 5000))
    assert (caught.value.failed.code, caught.value.failed.param) == ("context_length_exceeded", "suffix")


# --- Prompts that tenants share ---


def chat(*contents: str, shareable: int) -> Generate:
    messages = tuple(ChatMessage("system" if index == 0 else "user", text) for index, text in enumerate(contents))
    partition = Partition(name="mine", key=b"k" * 32, shared_name="ours", shareable_messages=shareable)
    return request(messages=messages, partition=partition)


def chatting(template: str) -> Prompts:
    model = Infilling()
    model.chat_template = template
    return prompts(model)


def test_what_was_declared_shareable_ends_where_the_next_message_begins() -> None:
    ours = chatting("{% for each in messages %}<{{ each.content }}>{% endfor %}")
    for question in ("one", "two"):
        assert ours.build(chat("be kind", question, shareable=1)).shared_tokens == len("<be kind>") + 1  # and BOS
    assert ours.build(chat("be kind", "one", shareable=0)).shared_tokens == 0


def test_a_template_that_wants_a_question_shares_nothing() -> None:
    ours = chatting(
        "{% if messages | length < 2 %}{{ raise_exception('no question') }}{% endif %}{{ messages[1].content }}"
    )
    assert ours.build(chat("be kind", "one", shareable=1)).shared_tokens == 0
