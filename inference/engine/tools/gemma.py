"""FunctionGemma and Gemma 4: ``call:name{key:value,…}`` between markers of their own.

Values are JSON's but for strings, which stand between escape markers, and keys, which stand bare. A call is read when
it is whole, and passed on as JSON. (Gemma 1 to 3 know no tools; they are served by the generic form.)
"""

import json
from collections.abc import Sequence
from typing import Any

from inference.engine.tools.forms import Form, NamedSchema, Part, Unquoted, long_id

_MAX_CHARACTERS = 256 * 1024
_MAX_DEPTH = 64


class _NoCall(Exception):
    pass


class GemmaCall:
    """See :class:`inference.engine.tools.forms.Scanner`."""

    def __init__(self, tools: frozenset[str], escape: str, end: str) -> None:
        self._tools = tools
        self._escape = escape
        self._end = end
        self._raw = ""
        self.name: str | None = None
        self.done = self.failed = False

    def feed(self, text: str, start: int) -> tuple[str, int]:
        before = len(self._raw)
        self._raw += text[start:]
        end = self._raw.find(self._end, max(0, before - len(self._end)))
        if end < 0:
            self.failed = len(self._raw) > _MAX_CHARACTERS or not _may_begin(self._raw)
            return "", len(text)
        return self._read(self._raw[:end]), start + end + len(self._end) - before

    def close(self) -> str:
        return self._read(self._raw)

    def _read(self, raw: str) -> str:
        try:
            name, arguments = _Reader(raw, self._escape).call()
        except _NoCall:
            name, arguments = "", {}
        if name not in self._tools:
            self.failed = True
            return ""
        self.name, self.done = name, True
        return json.dumps(arguments, ensure_ascii=False)


def _may_begin(raw: str) -> bool:
    head = "call:"
    return raw.startswith(head) or head.startswith(raw)


class _Reader:
    """A recursive descent over the text of one call."""

    def __init__(self, text: str, escape: str) -> None:
        self._text = text
        self._escape = escape
        self._at = 0
        self._depth = 0

    def call(self) -> tuple[str, dict[str, Any]]:
        if not self._text.startswith("call:"):
            raise _NoCall
        brace = self._text.find("{")
        if brace < 0:
            raise _NoCall
        name, self._at = self._text[len("call:") : brace].strip(), brace
        arguments = self._value()
        if self._text[self._at :].strip() or not isinstance(arguments, dict):
            raise _NoCall
        return name, arguments

    def _value(self) -> Any:
        self._space()
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _NoCall
        if self._text.startswith(self._escape, self._at):
            value: Any = self._string()
        elif self._text.startswith("{", self._at):
            value = dict(self._members("}"))
        elif self._text.startswith("[", self._at):
            value = [item for item, _ in self._members("]")]
        else:
            value = self._word()
        self._depth -= 1
        self._space()
        return value

    def _members(self, closing: str) -> list[tuple[Any, Any]]:
        members: list[tuple[Any, Any]] = []
        self._at += 1
        self._space()
        while not self._text.startswith(closing, self._at):
            if members:
                self._expect(",")
            first = self._key() if closing == "}" else self._value()
            members.append((first, self._value() if closing == "}" else None))
        self._at += len(closing)
        return members

    def _key(self) -> str:
        self._space()
        if self._text.startswith(self._escape, self._at):
            key = self._string()
            self._expect(":")
            return key
        colon = self._text.find(":", self._at)
        if colon < 0:
            raise _NoCall
        key, self._at = self._text[self._at : colon].strip().strip('"'), colon + 1
        return key

    def _string(self) -> str:
        begin = self._at + len(self._escape)
        end = self._text.find(self._escape, begin)
        if end < 0:
            raise _NoCall
        self._at = end + len(self._escape)
        return self._text[begin:end]

    def _word(self) -> Any:
        """A number, true, false, null, or a string whose marks were forgotten."""
        begin = self._at
        while self._at < len(self._text) and self._text[self._at] not in ",}]":
            self._at += 1
        word = self._text[begin : self._at].strip()
        if not word:
            raise _NoCall
        try:
            return json.loads(word)
        except ValueError:
            return word

    def _expect(self, character: str) -> None:
        if not self._text.startswith(character, self._at):
            raise _NoCall
        self._at += 1

    def _space(self) -> None:
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1


def _form(name: str, begin: str, end: str, escape: str, response: str) -> Form:
    def call(tool: NamedSchema) -> Sequence[Part]:
        return f"{begin}call:{tool.name}", Unquoted(tool.arguments, escape), end

    return Form(
        name=name,
        begins=(begin,),
        stops=(response,),
        markers=(begin, end, escape, response),
        scanner=lambda character, tools: GemmaCall(tools, escape, end) if character == "c" else None,
        call=call,
        several=("", "", ""),
        new_id=long_id,
    )


FUNCTION_GEMMA = _form(
    "function-gemma", "<start_function_call>", "<end_function_call>", "<escape>", "<start_function_response>"
)
GEMMA4 = _form("gemma4", "<|tool_call>", "<tool_call|>", '<|"|>', "<|tool_response>")
