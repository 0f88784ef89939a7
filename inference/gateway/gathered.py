"""A worker's deltas put together: what each choice of an answer that does not stream has come to."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from inference.gateway.workers import StreamMessage
from inference.protocol import Delta, Finished, FinishReason, TokenLogprob, ToolCall, ToolCallDelta


@dataclass(slots=True)
class Choice:
    index: int
    finish: FinishReason
    echoed: int = 0
    """Characters of the text that are the prompt's."""
    _text: list[str] = field(default_factory=list)
    _reasoning: list[str] = field(default_factory=list)
    _calls: list[tuple[str, str, list[str]]] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self._text)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def calls(self) -> list[ToolCall]:
        return [ToolCall(id, name, "".join(arguments)) for id, name, arguments in self._calls]

    def take(self, delta: Delta) -> None:
        if not delta.tokens:
            self.echoed += len(delta.text)
        self._text.append(delta.text)
        self._reasoning.append(delta.reasoning)
        self.logprobs += delta.logprobs
        for call in delta.tool_calls:
            self._take_call(call)
        if delta.finish is not None:
            self.finish = delta.finish

    def _take_call(self, call: ToolCallDelta) -> None:
        if call.id is not None:
            self._calls.append((call.id, call.name or "", []))
        self._calls[call.index][2].append(call.arguments)


def gathered(messages: Iterable[StreamMessage], finished: Finished, choices: int) -> list[Choice]:
    """All choices, in order. Where a worker does not say how one ended, it ended as the whole did."""
    found = [Choice(index, finished.reason) for index in range(choices)]
    for message in messages:
        if isinstance(message, Delta):
            found[message.index].take(message)
    return found
