"""A model's text → text for the client, and tool calls.

Nothing is lost: what only looked like a call comes out as the text that it is. When a call was one, its markers, the
separators behind it and the white space before it are dropped.
"""

from collections.abc import Iterable
from enum import Enum, auto

from inference.engine.tools.forms import Form, Scanner
from inference.protocol import ToolCallDelta


class _At(Enum):
    BEGINNING = auto()
    """Nothing but white space yet: a call may come without a marker."""
    TEXT = auto()
    BEFORE_CALL = auto()
    """After a marker."""
    CALL = auto()
    AFTER_CALL = auto()


class ToolParser:
    """Of one choice."""

    def __init__(self, form: Form, tools: frozenset[str]) -> None:
        self._form = form
        self._tools = tools
        self._at = _At.BEGINNING if form.bare else _At.TEXT
        self._unread = ""
        self._held = ""
        """What was read since the text ended, as it would go on if there is no call."""
        self._head = 0
        """So many characters of it begin the call that is tried: a marker, or the first character of a bare one."""
        self._scanner: Scanner | None = None
        self._announced = False
        self._text: list[str] = []
        self._deltas: list[ToolCallDelta] = []
        self.calls = 0
        """Calls that are certain."""
        self.complete_calls = 0

    def push(self, text: str) -> tuple[str, tuple[ToolCallDelta, ...]]:
        """The text, and the parts of calls, that are certain now."""
        self._unread += text
        while self._unread and self._step():
            pass
        return self._taken()

    def finish(self) -> tuple[str, tuple[ToolCallDelta, ...]]:
        """The rest, now that no more comes."""
        if self._scanner is not None and self._at is _At.CALL:
            self._note(self._scanner.close())
        if self._at is _At.AFTER_CALL:
            self._text.append("" if self._unread in self._form.ends else self._unread)
        elif not self._announced:
            self._text.append(self._held + self._unread)
        self._unread = self._held = ""
        return self._taken()

    def _taken(self) -> tuple[str, tuple[ToolCallDelta, ...]]:
        text, deltas = "".join(self._text), tuple(self._deltas)
        self._text.clear()
        self._deltas.clear()
        return text, deltas

    def _step(self) -> bool:
        """Read some of what is unread; False when more has to come first."""
        if self._at is _At.BEGINNING:
            return self._in_beginning()
        if self._at is _At.TEXT:
            return self._in_text()
        if self._at is _At.BEFORE_CALL:
            return self._before_call()
        return self._in_call() if self._at is _At.CALL else self._after_call()

    def _in_beginning(self) -> bool:
        stripped = self._unread.lstrip()
        if not stripped:
            return False
        self._at = _At.TEXT
        if stripped[0] == "{":
            self._head = len(self._unread) - len(stripped) + 1
            self._begin_call(self._unread[: self._head - 1], stripped)
        return True

    def _in_text(self) -> bool:
        text = self._unread
        found = [(place, marker) for marker in self._form.begins if (place := text.find(marker)) >= 0]
        if found:
            place, marker = min(found)
            shown = text[:place].rstrip()
            self._text.append(shown)
            self._begin_group(text[len(shown) : place + len(marker)], text[place + len(marker) :])
            return True
        # White space waits, too: before a call it is dropped.
        certain = text[: len(text) - _undecided(text, self._form.begins)].rstrip()
        self._text.append(certain)
        self._unread = text[len(certain) :]
        return False

    def _begin_group(self, held: str, unread: str) -> None:
        self._held, self._head, self._unread = held, len(held), unread
        self._at, self._announced = _At.BEFORE_CALL, False

    def _before_call(self) -> bool:
        if self._unread[0] in self._form.between:
            self._held += self._unread[0]
            self._unread = self._unread[1:]
            return True
        return self._begin_call(self._held, self._unread) or self._go_on_as_text()

    def _begin_call(self, held: str, unread: str) -> bool:
        self._scanner = self._form.scanner(unread[0], self._tools)
        if self._scanner is None:
            return False
        self._held, self._unread, self._announced = held, unread, False
        self._at = _At.CALL
        return True

    def _in_call(self) -> bool:
        scanner = self._scanner
        assert scanner is not None
        arguments, read = scanner.feed(self._unread, 0)
        if not scanner.failed and scanner.name is None:
            self._held += self._unread[:read]
        self._note(arguments)
        if scanner.failed:
            return self._go_on_as_text()
        self._unread = self._unread[read:]
        if scanner.done:
            self.complete_calls += 1
            self._at, self._held = _At.AFTER_CALL, ""
        return bool(self._unread)

    def _note(self, arguments: str) -> None:
        """Pass on what the scanner knows of its call."""
        scanner = self._scanner
        assert scanner is not None
        if scanner.name is None or not (arguments or not self._announced):
            return
        first = not self._announced
        self._deltas.append(
            ToolCallDelta(
                index=self.calls - (0 if first else 1),
                id=self._form.new_id() if first else None,
                name=scanner.name if first else None,
                arguments=arguments,
            )
        )
        if first:
            self._announced, self._held = True, ""
            self.calls += 1

    def _after_call(self) -> bool:
        text = self._unread
        if begin := _begun_with(text, self._form.begins):
            self._begin_group(begin, text[len(begin) :])
            return True
        if any(marker.startswith(text) for marker in self._form.begins):
            return False  # an end may be the beginning of a beginning: ``` and ```json
        if end := _begun_with(text, self._form.ends):
            self._unread, self._held = text[len(end) :], ""
            return True
        if any(marker.startswith(text) for marker in self._form.ends):
            return False
        if text[0] in self._form.between:
            self._held += text[0] if text[0].isspace() else ""
            self._unread = text[1:]
            return True
        self._head = len(self._held) + 1
        if not self._begin_call(self._held, text):
            self._text.append(self._held)
            self._at, self._held, self._announced = _At.TEXT, "", False
        return True

    def _go_on_as_text(self) -> bool:
        """It was no call. Its head is text for certain; the rest is read again, as a call may begin in there."""
        whole = self._held + self._unread
        self._text.append(whole[: self._head])
        self._unread, self._held, self._scanner = whole[self._head :], "", None
        self._at, self._announced = _At.TEXT, False
        return True


def _undecided(text: str, markers: Iterable[str]) -> int:
    """Length of the longest end of ``text`` that begins a marker."""
    return max(
        (
            length
            for marker in markers
            for length in range(1, min(len(marker), len(text) + 1))
            if text.endswith(marker[:length])
        ),
        default=0,
    )


def _begun_with(text: str, markers: Iterable[str]) -> str:
    return next((marker for marker in markers if text.startswith(marker)), "")
