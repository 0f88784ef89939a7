"""A call written as one JSON object, ``{"name": "f", "arguments": {…}}``, read as it arrives.

Arguments are passed on as they come, once the tool's name is known. If the name comes last they are kept until then.
An object is no call when its first keys are others than calls have, or when no tool has its name.
"""

import json
from enum import Enum, auto

_SPACE = " \t\r\n"
_ARGUMENTS = ("arguments", "parameters")
_OTHER_KEYS = ("type", "id")
"""Some models write these, too; they tell us nothing."""

_LONGEST_NAME = 256


class _At(Enum):
    OPENING = auto()
    KEY_OR_END = auto()
    KEY = auto()
    COLON = auto()
    VALUE = auto()
    IN_VALUE = auto()
    COMMA_OR_END = auto()


class JsonCall:
    """See :class:`inference.engine.tools.forms.Scanner`."""

    def __init__(self, tools: frozenset[str], *, needs_arguments: bool = False) -> None:
        """``needs_arguments``: an object without arguments is no call (else its arguments are ``{}``)."""
        self._tools = tools
        self._needs_arguments = needs_arguments
        self._at = _At.OPENING
        self._key = ""
        self._value: list[str] = []
        self._depth = 0
        self._quoted = self._escaped = self._streams = False
        self._arguments: str | None = None
        """Arguments that wait for the name."""
        self._sent = False
        """Arguments have been passed on, or are being."""
        self._name: str | None = None
        self.done = self.failed = False

    @property
    def name(self) -> str | None:
        return self._name if self._sent else None

    @property
    def awaits_end(self) -> bool:
        """A value is complete, and the object's next key or end has not come."""
        return self._at is _At.COMMA_OR_END

    def feed(self, text: str, start: int) -> tuple[str, int]:
        out: list[str] = []
        index = start
        while index < len(text) and not self.done and not self.failed:
            if self._take(text[index], out):
                index += 1
        return "".join(out), index

    def close(self) -> str:
        """A call that breaks off stays as far as it came; it had to be closed by the model."""
        return ""

    def _take(self, character: str, out: list[str]) -> bool:
        """One step; False when the character is not used up by it."""
        if self._at is _At.IN_VALUE:
            return self._in_value(character, out)
        if self._at is _At.KEY:
            return self._in_key(character)
        if character in _SPACE:
            return True
        if self._at is _At.OPENING:
            return self._expect(character == "{", _At.KEY_OR_END)
        if self._at is _At.KEY_OR_END:
            return self._end(out) if character == "}" else self._open_key(character)
        if self._at is _At.COLON:
            return self._expect(character == ":", _At.VALUE)
        if self._at is _At.VALUE:
            return self._open_value(character)
        if character == ",":
            self._at = _At.KEY_OR_END
            return True
        return self._end(out) if character == "}" else self._fail()

    def _expect(self, met: bool, then: _At) -> bool:
        self._at = then
        return met or self._fail()

    def _fail(self) -> bool:
        # What has been passed on can't be taken back: such a call just ends here.
        self.done = self._sent
        self.failed = not self._sent
        return False

    def _open_key(self, character: str) -> bool:
        self._value, self._quoted, self._escaped, self._depth = [character], True, False, 0
        return self._expect(character == '"', _At.KEY)

    def _in_key(self, character: str) -> bool:
        self._value.append(character)
        if self._string_goes_on(character):
            return len(self._value) <= _LONGEST_NAME or self._fail()
        key = _loaded("".join(self._value))
        if not self._sent and key != "name" and key not in _ARGUMENTS and key not in _OTHER_KEYS:
            return self._fail()
        self._key, self._at = str(key), _At.COLON
        return True

    def _open_value(self, character: str) -> bool:
        """The value's first character is looked at here and taken in the next step."""
        self._value, self._quoted, self._escaped, self._depth = [], False, False, 0
        self._at = _At.IN_VALUE
        self._streams = self._key in _ARGUMENTS and character == "{" and self._name is not None and not self._sent
        self._sent = self._sent or self._streams
        return False

    def _in_value(self, character: str, out: list[str]) -> bool:
        first = not self._value
        if self._quoted:
            goes_on = self._string_goes_on(character) or self._depth > 0
        elif character == '"':
            goes_on = self._quoted = True
        elif character in "{[":
            self._depth += 1
            goes_on = True
        elif character in "}]" and self._depth:
            self._depth -= 1
            goes_on = self._depth > 0
        elif self._depth == 0 and (character in ",}]" or character in _SPACE):
            # The end of a number or word, which is not part of it.
            return self._close_value(out) if not first else self._fail()
        else:
            goes_on = True
        self._value.append(character)
        if self._streams:
            out.append(character)
        elif self._key == "name" and len(self._value) > _LONGEST_NAME:
            return self._fail()
        if not goes_on:
            self._close_value(out)
        return not self.failed

    def _close_value(self, out: list[str]) -> bool:
        """The value is complete; False, as the character that showed it may still be unused."""
        self._at = _At.COMMA_OR_END
        if self._key == "name" and self._name is None:
            name = _loaded("".join(self._value))
            if not isinstance(name, str) or name not in self._tools:
                return self._fail()
            self._name = name
            self._pass_on(out)
        elif self._key in _ARGUMENTS and not self._sent:
            self._arguments = _as_object("".join(self._value))
            if self._arguments is None:
                return self._fail()
            self._pass_on(out)
        return False

    def _pass_on(self, out: list[str]) -> None:
        if self._name is not None and self._arguments is not None:
            self._sent = True
            out.append(self._arguments)

    def _end(self, out: list[str]) -> bool:
        if not self._sent:
            if self._name is None or self._needs_arguments:
                return self._fail()
            self._sent = True
            out.append("{}")
        self.done = True
        return True

    def _string_goes_on(self, character: str) -> bool:
        """Within quotes: whether the string is still open after this character."""
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._quoted = False
        return self._quoted


def _loaded(text: str) -> object:
    try:
        return json.loads(text, strict=False)
    except ValueError:
        return None


def _as_object(value: str) -> str | None:
    """Arguments that are no plain object: JSON within a string is taken out of it; nothing is an empty object."""
    if value.startswith("{"):
        return value
    loaded = _loaded(value)
    if loaded is None and value == "null":
        return "{}"
    return loaded if isinstance(loaded, str) and isinstance(_loaded(loaded), dict) else None
