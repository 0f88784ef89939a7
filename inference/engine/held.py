"""Which beginnings of prompts a worker holds the KV of, as its gateways name them (:mod:`inference.prefixes`).

A gateway's links stand for text and blocks for tokens, so each link is remembered with one block: the last whole one
of that beginning. Chains of blocks go from their end, so while it is there, those before it are. Whether it still is
in any tier is looked up only after something went, and no more at a time than a step of the engine would notice; a
link may outlive its block by some seconds.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from inference.engine.output import Sent
from inference.prefixes import STEP_CHARACTERS, STEP_TOKENS, after_answer, chat_ends, text_chain
from inference.protocol import CacheReport, ChatMessage, Generate, HeldPrefixes, Tool, ToolCall, ToolChoice

MOST_HELD = 4096
"""About 1 MB."""

_CHECKED = 128
"""Looked up at a time while others wait: 50 µs."""


class Held:
    """Owned by the engine's thread. The links that were used longest ago go first."""

    def __init__(self, holds: Callable[[bytes], bool], most: int = MOST_HELD) -> None:
        """``holds``: whether a block, by its name, is in any tier."""
        self._holds = holds
        self._most = most
        self._entries: dict[bytes, tuple[int, bytes]] = {}
        """By link, the one used last at the end: about how many tokens it stands for, and its block."""
        self._gone = (0, 0, 0)
        self._unchecked: list[bytes] = []
        """Those used longest ago last: their blocks are the likeliest to be gone, so they come first."""
        self._added: dict[bytes, int] = {}
        self._removed: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._entries)

    def note(self, link: bytes, tokens: int, block: bytes) -> None:
        """This beginning was computed, or found, just now."""
        if not self._holds(block):
            return
        before = self._entries.pop(link, None)
        self._entries[link] = (tokens, block)
        if before is None or before[0] != tokens:
            self._added[link] = tokens
            self._removed.discard(link)
        if len(self._entries) > self._most:
            self._remove(next(iter(self._entries)))

    def check(self, report: CacheReport, *, idle: bool) -> None:
        """Forget links whose block is gone.

        Args:
            report: of now, to tell whether any went.
            idle: nobody waits, so all are looked up; else some, and the others with the next calls.
        """
        gone = (report.ram.evicted_blocks, report.ssd.evicted_blocks, report.ssd.dropped_blocks)
        if gone != self._gone and (
            idle or not self._unchecked
        ):  # blocks may go all the time: a pass is never cut short
            self._gone = gone
            self._unchecked = list(reversed(self._entries))
        for _ in range(len(self._unchecked) if idle else min(_CHECKED, len(self._unchecked))):
            link = self._unchecked.pop()
            entry = self._entries.get(link)
            if entry is not None and not self._holds(entry[1]):
                self._remove(link)

    def take_changes(self) -> HeldPrefixes | None:
        """What has changed since the last call; None if nothing has."""
        if not self._added and not self._removed:
            return None
        changes = HeldPrefixes(added=self._added, removed=tuple(self._removed))
        self._added, self._removed = {}, set()
        return changes

    def _remove(self, link: bytes) -> None:
        del self._entries[link]
        self._added.pop(link, None)
        self._removed.add(link)


@dataclass(slots=True)
class Answer:
    """What one choice has said."""

    thoughts: bool = False
    _text: list[str] = field(default_factory=list)
    _calls: list[tuple[str, list[str]]] = field(default_factory=list)

    def take(self, sent: Sent) -> None:
        if sent.text:
            self._text.append(sent.text)
        if sent.reasoning:
            self.thoughts = True
        for call in sent.tool_calls:
            if call.name is not None:
                self._calls.append((call.name, []))
            self._calls[-1][1].append(call.arguments)

    @property
    def text(self) -> str:
        return "".join(self._text)

    @property
    def message(self) -> ChatMessage:
        """As a client sends it back in the conversation's next turn."""
        calls = tuple(ToolCall(id="", name=name, arguments="".join(parts)) for name, parts in self._calls)
        return ChatMessage("assistant", self.text, tool_calls=calls)


def prompt_links(request: Generate, prompt_tokens: int) -> Iterator[tuple[bytes, int]]:
    """The links of a prompt, each with the tokens that it stands for. Of messages and text this is an estimate, by
    their part of the characters: where a text's tokens end in a prompt, only tokenizing it alone would tell."""
    if request.tokens is not None:
        yield from ((link, STEP_TOKENS * (step + 1)) for step, link in enumerate(request.prefixes))
        return
    if request.messages is not None:
        ends = chat_ends(request.messages, shown_tools(request))
    else:
        text = request.text or ""
        ends = [STEP_CHARACTERS * (step + 1) for step in range(len(request.prefixes))]
        ends.append(len(text) + len(request.suffix or ""))
    for link, end in zip(request.prefixes, ends, strict=False):
        yield link, prompt_tokens * end // ends[-1]


def answer_links(request: Generate, answer: Answer) -> tuple[bytes, ...]:
    """The links that an answer has added to its prompt's."""
    if request.partition is None or request.suffix is not None:
        return ()
    if request.messages is not None:
        return after_answer(request.partition, request.prefixes, answer.message, shown_tools(request))
    if request.text is not None:
        whole = text_chain(request.partition, request.text + answer.text, known=request.prefixes)
        return whole[len(request.prefixes) :]
    return ()


def shown_tools(request: Generate) -> tuple[Tool, ...]:
    """Those that the chat template shows."""
    return () if request.tool_choice is ToolChoice.NONE else request.tools
