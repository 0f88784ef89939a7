"""Chat templates are programs from files of strangers."""

import pytest

from inference.engine.template import ChatTemplate, TemplateFault
from inference.protocol import ChatMessage

CHATML = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>")


def test_messages_become_a_prompt_that_ends_where_the_assistant_begins() -> None:
    prompt = template(CHATML).render([ChatMessage("system", "Be brief."), ChatMessage("user", "مرحبا")])
    assert (
        prompt
        == "<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nمرحبا<|im_end|>\n<|im_start|>assistant\n"
    )


def test_content_is_data_not_template() -> None:
    assert "{{ bos_token }}" in template(CHATML).render([ChatMessage("user", "{{ bos_token }}")])


def test_a_template_may_refuse_messages_in_its_own_words() -> None:
    with pytest.raises(TemplateFault, match="roles must alternate"):
        template("{{ raise_exception('roles must alternate') }}").render([ChatMessage("user", "x")])


def test_a_syntax_error_is_told_at_load() -> None:
    with pytest.raises(TemplateFault, match="broken"):
        template("{% for %}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ undefined.attribute }}",
        "{{ 1 / 0 }}",
        "{{ range(10 ** 9) | list }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_what_a_template_must_not_do_is_a_fault_and_nothing_worse(source: str) -> None:
    with pytest.raises(TemplateFault):
        template(source).render([ChatMessage("user", "x")])


def test_output_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.engine.template.MAX_RENDER_CHARACTERS", 1000)
    with pytest.raises(TemplateFault, match="end"):
        template("{% for i in range(90000) %}xxxxxxxxxx{{ i }}{% endfor %}").render([ChatMessage("user", "x")])
