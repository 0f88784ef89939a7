"""Chat templates are programs from files of strangers."""

import time

import pytest

from inference.engine.template import ChatTemplate, TemplateFault
from inference.protocol import ChatMessage, Tool, ToolCall

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


ENDLESS = {
    "silent loops": "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
    "loops that write": "{% for a in range(90000) %}{% for b in range(90000) %}x{% endfor %}{% endfor %}",
    "a doubling macro": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "a text that doubles by ~": (
        "{% set ns = namespace(x='x') %}{% for a in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"
    ),
    "a text that doubles by +": (
        "{% set ns = namespace(x='x') %}{% for a in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}"
    ),
    "a text that doubles by itself": (
        "{% set ns = namespace(x='x') %}{% for a in range(60) %}"
        "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}"
    ),
    "a list that doubles": (
        "{% set ns = namespace(x=[1]) %}{% for a in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}"
    ),
    "a huge text": "{{ 'x' * 10 ** 10 }}",
    "a huge text by constants": "{{ 'x' * 10000000000 }}",
    "a huge power": "{{ 9 ** 999999999 }}",
    "a huge width": "{{ 'x' | center(10000000000) }}",
    "a huge width of a method": "{{ 'x'.ljust(10000000000) }}",
    "a huge format": "{{ '%10000000000d' % 1 }}",
    "a huge format by a star": "{{ '%*d' % (10000000000, 1) }}",
    "a huge format by a method": "{{ '{:10000000000}'.format(1) }}",
    "a huge width among the values": "{{ '{:{w}}'.format(1, w=10000000000) }}",
    "replacing everything": "{% set x = 'x' * 900000 %}{{ x.replace('x', x) }}",
    "joining much": "{{ ('x' * 900000).join(['y'] * 900000) }}",
    "joining much by a filter": "{{ range(90000) | join('x' * 900000) }}",
    "joining what is made one by one": "{{ ('x' * 900000).join(range(90000) | map('string')) }}",
    "replacing everything by a filter": "{% set x = 'x' * 900000 %}{{ x | replace('x', x) }}",
    "many references to a text": "{% set x = 'x' * 900000 %}{{ ([x] * 90000) | tojson }}",
    "many references, written out": "{% set x = 'x' * 900000 %}{{ [x] * 90000 }}",
    "many references, in a format": "{% set x = 'x' * 900000 %}{{ ('%(x)s' * 90000) % {'x': x} }}",
    "many references, by a method": "{% set x = 'x' * 900000 %}{{ ('{0}' * 90000).format(x) }}",
    "a nest of lists": (
        "{% set ns = namespace(x=[1]) %}{% for a in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}"
    ),
    "a nest of namespaces": (
        "{% set ns = namespace(x=1) %}{% for a in range(60) %}{% set n = namespace() %}{% set n.a = [ns.x, ns.x] %}"
        "{% set ns.x = n.a %}{% endfor %}{{ ns.x == [ns.x] }}"
    ),
    "a macro that writes much": (
        "{% macro f() %}{% for a in range(90000) %}{{ 'x' * 900000 }}{% endfor %}{% endmacro %}{{ f() | length }}"
    ),
    "texts that are kept": (
        "{% set ns = namespace(x=[]) %}{% for a in range(90000) %}{% set ns.x = ns.x + ['x' * 900000 ~ a] %}"
        "{% endfor %}"
    ),
    "a sum of lists": "{{ ([[1] * 90000] * 90000) | sum(start=[]) | length }}",
    "lists that are filled": "{{ [1] | batch(10000000000, 'x') | list }}",
    "slices without end": "{{ [1] | slice(10000000000) | list }}",
    "rounding far": "{{ 5 | round(-10000000000) }}",
    "an indent": "{{ [[1]] | tojson(indent=10000000000) }}",
    "bytes": "{{ 'x'.encode().ljust(10000000000) | length }}",
    "bytes of a number": "{{ (1).to_bytes(10000000000, 'big') | length }}",
    "a translation": "{% set x = 'x' * 900000 %}{{ x.translate({120: x}) | length }}",
    "tabs": "{{ ('\t' * 900000).expandtabs(90000) | length }}",
}


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS.keys())
def test_what_has_no_end_is_ended_within_its_time_and_memory(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.engine.bounded_jinja.MAX_STEPS", 100_000)
    began = time.monotonic()
    with pytest.raises(TemplateFault, match=r"end|broken"):
        template(source).render([ChatMessage("user", "x")])
    assert time.monotonic() - began < 2


def test_the_deadline_ends_what_is_slow_in_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.engine.bounded_jinja.MAX_SECONDS", 0.05)
    with pytest.raises(TemplateFault, match="seconds"):
        template("{% for a in range(90000) %}{{ (range(50000) | list) | length }}{% endfor %}").render(
            [ChatMessage("user", "x")]
        )


def test_every_rendering_begins_with_all_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.engine.bounded_jinja.MAX_STEPS", 100)
    counting = template("{% for a in range(60) %}x{% endfor %}")
    for _ in range(3):
        assert counting.render([ChatMessage("user", "x")]) == "x" * 60


def test_loops_keep_what_templates_use_of_them() -> None:
    source = (
        "{% for m in messages if m.role != 'system' %}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}"
        "{{ loop.previtem.content if loop.previtem }}"
        "{% if loop.index > 1 %}{% break %}{% endif %}{% else %}none{% endfor %}"
    )
    messages = [ChatMessage("system", "s"), ChatMessage("user", "a"), ChatMessage("user", "b")]
    assert template(source).render(messages) == "0TrueFalse21FalseTrue2a"
    assert template("{% for m in [] %}x{% else %}none{% endfor %}").render(messages) == "none"


def test_a_namespace_written_out_is_short_whatever_is_in_it() -> None:
    source = (
        "{% set ns = namespace(x=1) %}{% for a in range(60) %}{% set n = namespace() %}{% set n.a = ns.x %}"
        "{% set n.b = ns.x %}{% set ns.x = n %}{% endfor %}{{ ns.x }}"
    )
    assert template(source).render([]) == "<Namespace>"


def test_what_prompts_are_made_with_goes_on_as_ever() -> None:
    source = (
        "{% set x = namespace(l=[], d={'a': (1, 2)}) %}{% for a, b in [('p', 'q'), ('r', 's')] %}"
        "{% set x.l = x.l + [a ~ b] %}{% endfor %}{{ x.l | join(', ') }} {{ '-'.join(x.l) }} {{ x.d.a[1] }} "
        "{{ messages | map(attribute='content') | join('|') }} {{ x.d | tojson(indent=1) }} "
        "{{ 'a b'.split(' ')[-1] }} {{ 'a,b' | replace(',', ';') }} {{ '%s=%s' | format('k', 'v') }}"
        "{% macro m(y) %}<{{ y }}>{% endmacro %}{{ m('z') }}{% set t %}t{{ m(1) }}{% endset %}{{ t | upper }}"
    )
    rendered = template(source).render([ChatMessage("user", "one"), ChatMessage("user", "two")])
    assert rendered == 'pq, rs pq-rs 2 one|two {\n "a": [\n  1,\n  2\n ]\n} b a;b k=v<z>T<1>'


def test_large_numbers_are_numbers_and_no_widths() -> None:
    source = (
        "{% macro shown(n) %}{{ n }}{% endmacro %}{{ shown(1000000) }} {{ 1000000 | tojson }} {{ '%d' % 1000000 }} "
        "{{ '{}'.format(1000000) }} {{ 1000000 + 1000000 }} {{ '%s' | format(1000000) }}"
    )
    assert template(source).render([]) == "1000000 1000000 1000000 1000000 2000000 1000000"


WEATHER = Tool(name="get_weather", description="The weather.", parameters='{"type": "object"}')
CALLED = ChatMessage("assistant", "", tool_calls=(ToolCall("call_1", "get_weather", '{"city": "Rome"}'),))
TOLD = ChatMessage("tool", "Sunny.", tool_call_id="call_1")


def test_tools_calls_and_results_reach_the_template() -> None:
    source = (
        "{% if tools is not none %}{% for tool in tools %}{{ tool.function | tojson }}{% endfor %}{% endif %}"
        "{% for m in messages %}|{{ m.role }}:{{ m.content }}"
        "{% for call in m.tool_calls %}{{ call.id }}={{ call.function.name }}({{ call.function.arguments.city }})"
        "{% endfor %}{{ m.tool_call_id }}{{ m.reasoning_content }}{% endfor %}"
    )
    asked = ChatMessage("assistant", "Hi", reasoning="Hm.")
    assert template(source).render([asked, CALLED, TOLD], [WEATHER]) == (
        '{"name": "get_weather", "description": "The weather.", "parameters": {"type": "object"}}'
        "|assistant:HiHm.|assistant:call_1=get_weather(Rome)|tool:Sunny.call_1"
    )


def test_no_tools_are_none_to_the_template() -> None:
    assert template("{{ tools is none }}{{ tools is defined }}").render([]) == "TrueTrue"
    assert template("{{ 'tool_calls' in messages[0] }}").render([ChatMessage("user", "x")]) == "False"


def test_templates_that_want_arguments_as_text_get_them_so() -> None:
    source = "{% for m in messages %}{{ 'Call: ' + m.tool_calls[0].function.arguments }}{% endfor %}"
    assert template(source).render([CALLED]) == 'Call: {"city": "Rome"}'
