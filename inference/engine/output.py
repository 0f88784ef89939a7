"""One choice's tokens → what its client gets: text, thoughts, tool calls, log probabilities, and when it ends."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from inference.engine.text import TextStream
from inference.engine.thinking import Markers, Thoughts
from inference.engine.tools.forms import Form
from inference.engine.tools.parser import ToolParser
from inference.protocol import FinishReason, TokenLogprob, ToolCallDelta


class Sent(msgspec.Struct, frozen=True):
    """What may be sent now; the fields are :class:`inference.protocol.Delta`'s."""

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.text or self.reasoning or self.tool_calls or self.logprobs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a request's choices are to be read."""

    stops: tuple[str, ...] = ()
    thinking: Markers | None = None
    prompt_end: str = ""
    """The prompt's last characters: some end amid the thoughts."""
    form: Form | None = None
    """How calls look; None: calls are not looked for."""
    tools: frozenset[str] = frozenset()
    parallel: bool = True
    """More than one call may be made; else the choice ends with the first."""
    spelled: Mapping[int, bytes] = field(default_factory=dict)
    """Control tokens whose text is to be read."""


class Output:
    """Of one choice: stop strings first, then thoughts, then calls."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._stream = TextStream(reading.stops)
        self._thoughts = Thoughts(reading.thinking, reading.prompt_end) if reading.thinking else None
        self._calls = ToolParser(reading.form, reading.tools) if reading.form else None
        self._logprobs: deque[tuple[int, TokenLogprob]] = deque()
        """Those not sent, each with the place in the text where its token begins."""

    @property
    def thinking(self) -> bool:
        """The answer has not begun: a constraint on it is not in force yet."""
        return self._thoughts is not None and self._thoughts.thinking

    @property
    def stopped(self) -> bool:
        """Nothing that comes after would be sent."""
        if self._stream.stopped:
            return True
        return self._calls is not None and not self._reading.parallel and self._calls.complete_calls > 0

    def push(self, token: int, piece: bytes, logprob: TokenLogprob | None = None) -> Sent:
        """``token`` was chosen and stands for ``piece``."""
        if logprob is not None:
            self._logprobs.append((self._stream.decoded, logprob))
        text = self._stream.push(self._reading.spelled.get(token, piece))
        if self._thoughts is None and self._calls is None:
            return Sent(text) if logprob is None else self._with_logprobs(text, "", ())
        return self._with_logprobs(*self._read(text))

    def finish(self, reason: FinishReason) -> tuple[Sent, FinishReason]:
        """What was held back, and the reason as the client is told."""
        text, thoughts, calls = self._read(self._stream.finish())
        if self._thoughts is not None:
            more_thoughts, answer = self._thoughts.finish()
            thoughts += more_thoughts
            more_text, more_calls = self._called(answer)
            text, calls = text + more_text, calls + more_calls
        if self._calls is not None:
            more_text, more_calls = self._calls.finish()
            text, calls = text + more_text, calls + more_calls
        sent = Sent(text, thoughts, calls, self._due(at_end=not self._stream.stopped))
        called = self._calls is not None and self._calls.calls > 0
        return sent, FinishReason.TOOL_CALLS if reason is FinishReason.STOP and called else reason

    def _read(self, text: str) -> tuple[str, str, tuple[ToolCallDelta, ...]]:
        thoughts = ""
        if self._thoughts is not None:
            thoughts, text = self._thoughts.push(text)
        answer, calls = self._called(text)
        return answer, thoughts, calls

    def _called(self, text: str) -> tuple[str, tuple[ToolCallDelta, ...]]:
        return (text, ()) if self._calls is None else self._calls.push(text)

    def _with_logprobs(self, text: str, thoughts: str, calls: tuple[ToolCallDelta, ...]) -> Sent:
        """Log probabilities leave with the next thing that does; alone they would make chunks of nothing."""
        return Sent(text, thoughts, calls, self._due() if text or thoughts or calls else ())

    def _due(self, *, at_end: bool = False) -> tuple[TokenLogprob, ...]:
        """Of the tokens whose text has left, or has become thoughts or calls; none of a stop string's own tokens."""
        due: list[TokenLogprob] = []
        while self._logprobs and (at_end or self._logprobs[0][0] < self._stream.sent):
            due.append(self._logprobs.popleft()[1])
        return tuple(due)
