"""Grammars of answers with tool calls, in llguidance's Lark dialect."""

import json
from collections.abc import Mapping, Sequence

from inference.engine.schemas import Schema
from inference.engine.tools.forms import Form, NamedSchema, Part, Unquoted
from inference.engine.tools.rules import Rules
from inference.engine.tools.unquoted import add_object

MAX_CALLS = 8
"""Calls in one forced answer: a small model that may go on with calls often does so for ever."""


def forced(
    form: Form,
    tools: Sequence[NamedSchema],
    *,
    several: bool,
    controls: Mapping[str, int],
    or_answer: Schema | None = None,
) -> str:
    """An answer of nothing but calls, at least one; or, if it is given, of what ``or_answer`` describes.

    Args:
        several: several calls may be made together, if the family makes any together.
        controls: the markers of the form that are one control token each.
    """
    rules = Rules(controls)
    calls = _calls(rules, form, tools, several=several, behind="")
    rules.add("start", "calls" if or_answer is None else "calls | answer")
    rules.add("calls", calls)
    if or_answer is not None:
        rules.add("answer", f"%json {json.dumps(or_answer)}")
    return rules.text()


def free(form: Form, tools: Sequence[NamedSchema], *, controls: Mapping[str, int]) -> str:
    """Any text, in which a call is held to its schema once its marker is written."""
    rules = Rules(controls)
    if not form.marked:
        # The call is the whole answer: one that begins with another character is none.
        rules.add("start", "PLAIN | calls")
        rules.add("PLAIN", r"/[^{](.|\n)*/")
        rules.add("calls", _calls(rules, form, tools, several=False, behind=""))
        return rules.text()
    marker = form.begins[0]
    rules.add("start", "tagged* TEXT")
    rules.add("TEXT", r"/(.|\n)*/")
    if marker in controls:
        head = f"TEXT <[{controls[marker]}]>"
    else:
        head = rules.add("marked[lazy]", f"TEXT {json.dumps(marker)}").removesuffix("[lazy]")
    rules.add("tagged", f"{head} {_calls(rules, form, tools, several=True, behind=marker)}")
    return rules.text()


def _calls(rules: Rules, form: Form, tools: Sequence[NamedSchema], *, several: bool, behind: str) -> str:
    """The body of a rule: one call or several. ``behind`` is the marker that has been written already."""
    heads: list[str] = []
    tails: list[str] = []
    for tool in tools:
        head, *parts = form.call(tool)
        assert isinstance(head, str), "a call begins with its name"
        heads.append(head)
        tails.append(" ".join(_rule(rules, part) for part in parts))
    before, between, after = form.several or ("", "", "")
    first = _one_of(rules, [(before + head).removeprefix(behind) for head in heads], tails)
    if not several or form.several is None:
        return f"{first} {rules.literal(after)}"
    following = _one_of(rules, [between + head for head in heads], tails)
    return f"{first} {following}{{0,{MAX_CALLS - 1}}} {rules.literal(after)}"


def _one_of(rules: Rules, heads: Sequence[str], tails: Sequence[str]) -> str:
    ways = [f"{rules.literal(head)} {tail}" for head, tail in zip(heads, tails, strict=True)]
    return "(" + " | ".join(ways) + ")"


def _rule(rules: Rules, part: Part) -> str:
    if isinstance(part, str):
        return rules.literal(part)
    if isinstance(part, Unquoted):
        return add_object(rules, part)
    return rules.add(rules.fresh("arguments"), f"%json {json.dumps(part)}")
