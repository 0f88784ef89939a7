"""What a thinking model writes before its answer, told apart from it."""

from dataclasses import dataclass
from enum import Enum, auto


@dataclass(frozen=True, slots=True)
class Markers:
    begin: str
    end: str


_KNOWN = (Markers("<think>", "</think>"), Markers("[THINK]", "[/THINK]"), Markers("<|channel>thought", "<channel|>"))
"""Qwen, DeepSeek and most others; Mistral; Gemma 4."""


def markers_of(template: str | None) -> Markers | None:
    """How the model of this chat template thinks; None: its template shows no such thing."""
    if template is None:
        return None
    return next((known for known in _KNOWN if known.begin in template or known.end in template), None)


class _At(Enum):
    BEGINNING = auto()
    """Nothing but white space yet: thoughts may begin."""
    THOUGHTS_BEGIN = auto()
    THOUGHTS = auto()
    ANSWER_BEGINS = auto()
    ANSWER = auto()


class Thoughts:
    """Splits one choice's text. Thoughts come first or not at all; a marker later on is text."""

    def __init__(self, markers: Markers, prompt: str) -> None:
        """``prompt``: templates of models that always think end it with the opening marker."""
        self._markers = markers
        self._at = _At.THOUGHTS_BEGIN if prompt.rstrip().endswith(markers.begin) else _At.BEGINNING
        self._held = ""

    @property
    def thinking(self) -> bool:
        """The answer has certainly not begun."""
        return self._at in (_At.THOUGHTS_BEGIN, _At.THOUGHTS)

    def push(self, text: str) -> tuple[str, str]:
        """Thoughts and answer, as far as they are certain now; white space around the thoughts is dropped."""
        if self._at is _At.ANSWER:
            return "", text
        self._held += text
        if self._at in (_At.BEGINNING, _At.THOUGHTS_BEGIN):
            self._begin()
        thoughts = self._think() if self._at is _At.THOUGHTS else ""
        return thoughts, self._answer()

    def finish(self) -> tuple[str, str]:
        """The rest, now that no more comes."""
        held, self._held = self._held, ""
        if self.thinking:
            return held.rstrip(), ""
        return "", held if self._at is _At.BEGINNING else ""

    def _begin(self) -> None:
        begin, stripped = self._markers.begin, self._held.lstrip()
        if stripped.startswith(begin):
            self._held, self._at = stripped[len(begin) :], _At.THOUGHTS_BEGIN
            stripped = self._held.lstrip()
            if stripped:
                self._held, self._at = stripped, _At.THOUGHTS
        elif not begin.startswith(stripped):
            self._at = _At.THOUGHTS if self._at is _At.THOUGHTS_BEGIN else _At.ANSWER
            self._held = stripped if self._at is _At.THOUGHTS else self._held

    def _think(self) -> str:
        text, end = self._held, self._markers.end
        place = text.find(end)
        if place >= 0:
            self._held, self._at = text[place + len(end) :], _At.ANSWER_BEGINS
            return text[:place].rstrip()
        # The end may have begun, and white space before it is none of the thoughts.
        begun = next((size for size in range(min(len(end) - 1, len(text)), 0, -1) if text.endswith(end[:size])), 0)
        certain = text[: len(text) - begun].rstrip()
        self._held = text[len(certain) :]
        return certain

    def _answer(self) -> str:
        if self._at is _At.ANSWER_BEGINS:
            self._held = self._held.lstrip()
            if self._held:
                self._at = _At.ANSWER
        if self._at is not _At.ANSWER:
            return ""
        text, self._held = self._held, ""
        return text
