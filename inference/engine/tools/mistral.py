"""Mistral: ``[TOOL_CALLS]`` and a JSON list of calls; since 2025 ``[TOOL_CALLS]name[ARGS]{…}`` for each call.

The markers are control tokens. Both ways are read, whichever the template shows.
"""

import json
from collections.abc import Sequence
from dataclasses import replace

from inference.engine.tools.forms import Form, NamedSchema, Part, Scanner, nine_letters
from inference.engine.tools.json_call import JsonCall

_ARGUMENTS = "[ARGS]"
_CALL_ID = "[CALL_ID]"
_LONGEST_HEAD = 300
"""Characters of a name, a call's id and their markers."""


class NamedCall:
    """``name[ARGS]{…}``, ``name[CALL_ID]id[ARGS]{…}`` or ``name{…}``."""

    def __init__(self, tools: frozenset[str]) -> None:
        self._tools = tools
        self._head = ""
        self._object: JsonCall | None = None
        self.done = self.failed = False

    @property
    def name(self) -> str | None:
        return None if self._object is None else self._object.name

    def feed(self, text: str, start: int) -> tuple[str, int]:
        out, index = "", start
        if self._object is None:
            brace = text.find("{", index)
            end = len(text) if brace < 0 else brace
            self._head += text[index:end]
            index = end
            if brace < 0:
                self.failed = len(self._head) > _LONGEST_HEAD
                return out, index
            name = self._head.removesuffix(_ARGUMENTS).partition(_CALL_ID)[0].strip()
            if name not in self._tools:
                self.failed = True
                return out, index
            # What follows is the value of "arguments" in the object that the other form would be.
            self._object = JsonCall(self._tools)
            self._object.feed(f'{{"name": {json.dumps(name)}, "arguments": ', 0)
        arguments, index = _value(self._object, text, index)
        self.done, self.failed = self._object.done, self._object.failed
        return out + arguments, index

    def close(self) -> str:
        return ""


def _value(call: JsonCall, text: str, index: int) -> tuple[str, int]:
    """Feed a call's arguments alone, and close its object when they are complete."""
    out: list[str] = []
    while index < len(text) and not call.done and not call.failed:
        more, index = call.feed(text[index : index + 1], 0)[0], index + 1
        out.append(more)
        if call.awaits_end:
            call.feed("}", 0)
    return "".join(out), index


def _scanner(character: str, tools: frozenset[str]) -> Scanner | None:
    if character == "{":
        return JsonCall(tools)
    return NamedCall(tools) if character.isalnum() or character in "_-" else None


def _listed_call(tool: NamedSchema) -> Sequence[Part]:
    return f'{{"name": {json.dumps(tool.name)}, "arguments": ', tool.arguments, "}"


def _named_call(tool: NamedSchema) -> Sequence[Part]:
    return f"[TOOL_CALLS]{tool.name}{_ARGUMENTS}", tool.arguments


MISTRAL = Form(
    name="mistral",
    begins=("[TOOL_CALLS]",),
    between=" \t\r\n,[]",
    markers=("[TOOL_CALLS]", _ARGUMENTS, _CALL_ID),
    scanner=_scanner,
    call=_listed_call,
    several=("[TOOL_CALLS][", ", ", "]"),
    new_id=nine_letters,
)

MISTRAL_NAMED = replace(MISTRAL, name="mistral-named", call=_named_call, several=("", "", ""))
