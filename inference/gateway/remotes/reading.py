"""The events of a backend's stream → a worker's messages. Pure.

Nothing that a backend says is believed unseen: what comes after this indexes lists by it.
"""

import time
from collections.abc import Callable

import msgspec

from inference.gateway.remotes.bounds import text_bound
from inference.gateway.remotes.chunks import CallPart, ChoicePart, Chunk, Usage, decoded, logprobs_of, reason_of
from inference.gateway.remotes.events import Garbled
from inference.protocol import Delta, Finished, FinishReason, ToolCallDelta

DONE = b"[DONE]"


class Reading:
    """One stream, from its first event to its last."""

    __slots__ = (
        "_asked_at",
        "_calls",
        "_clock",
        "_first_at",
        "_id",
        "_open",
        "_reason",
        "_usages",
        "choices",
        "done",
        "tokens",
        "usage",
    )

    def __init__(self, request_id: int, choices: int, clock: Callable[[], float] = time.perf_counter) -> None:
        """From now on the first token is waited for, by ``clock``, in seconds."""
        self._id = request_id
        self.choices = choices
        self._clock = clock
        self._asked_at = clock()
        self._first_at: float | None = None
        self._open = set(range(choices))
        self._calls = [0] * choices
        """Tool calls that each choice has begun."""
        self._reason = FinishReason.STOP
        self.done = False
        """It has said itself that this was all."""
        self.tokens = 0
        """No fewer than have come."""
        self.usage: Usage | None = None
        """What it told last."""
        self._usages = 0
        """Told beside all choices: once, or once for each."""

    @property
    def complete(self) -> bool:
        """Every choice has ended: without a word more, too, this is the whole answer."""
        return not self._open

    def take(self, event: bytes) -> list[Delta]:
        """What one event says.

        Raises:
            Garbled: what it should not.
            BackendError: the backend tells that it failed.
        """
        if event.strip() == DONE:
            self.done = True
            return []
        chunk = decoded(event)
        if chunk.error is not None:
            raise BackendError(event)
        if chunk.usage is not None:
            self._take_usage(chunk.usage, beside=not chunk.choices)
        return self._deltas(chunk)

    def finished(self, prompt_tokens: int, completion_tokens: int, reason: FinishReason | None = None) -> Finished:
        """The last message. What the backend tells of its usage goes before what is given here."""
        usage, now = self.usage, self._clock()
        first_at = now if self._first_at is None else self._first_at
        return Finished(
            id=self._id,
            reason=reason or self._reason,
            prompt_tokens=prompt_tokens if usage is None else usage.prompt_tokens,
            completion_tokens=completion_tokens if usage is None else usage.completion_tokens,
            cached_tokens=0 if usage is None else usage.cached_tokens,
            prefill_seconds=first_at - self._asked_at,
            decode_seconds=now - first_at,
        )

    def _take_usage(self, usage: Usage, *, beside: bool) -> None:
        """Beside a choice it is what was used until then. Beside none it is the last word, of which llama-server has
        one for each choice."""
        if beside and self.usage is not None and 0 < self._usages < self.choices:
            usage = msgspec.structs.replace(
                usage, completion_tokens=self.usage.completion_tokens + usage.completion_tokens
            )
        if beside or not self._usages:
            self.usage = usage
        self._usages += beside

    def _deltas(self, chunk: Chunk) -> list[Delta]:
        found = [self._delta(choice) for choice in chunk.choices or ()]
        return [delta for delta in found if delta is not None]

    def _delta(self, choice: ChoicePart) -> Delta | None:
        if not 0 <= choice.index < self.choices:
            raise Garbled(f"a choice {choice.index}, where {self.choices} were asked for")
        if choice.index not in self._open:  # usage, or an empty chunk after the end
            return None
        text, reasoning, calls = self._content(choice)
        logprobs = logprobs_of(choice.logprobs)
        finish = None if choice.finish_reason is None else reason_of(choice.finish_reason)
        if not (text or reasoning or calls or logprobs or finish):
            return None
        self._count(text, reasoning, calls)
        if finish is not None:
            self._open.discard(choice.index)
            self._reason = finish
        return Delta(
            id=self._id,
            text=text,
            tokens=max(1, self.tokens),
            index=choice.index,
            reasoning=reasoning,
            tool_calls=calls,
            logprobs=logprobs,
            finish=finish,
        )

    def _content(self, choice: ChoicePart) -> tuple[str, str, tuple[ToolCallDelta, ...]]:
        delta = choice.delta
        if delta is None:
            return choice.text or "", "", ()
        calls = tuple([self._call(choice.index, part) for part in delta.tool_calls or ()])
        return delta.content or delta.refusal or "", delta.reasoning_content or delta.reasoning or "", calls

    def _call(self, choice: int, part: CallPart) -> ToolCallDelta:
        """Some backends name a call again with each part of it, and some never give it an id."""
        known = self._calls[choice]
        if not 0 <= part.index <= known:
            raise Garbled(f"a tool call {part.index} after {known} of them")
        function = part.function
        arguments = "" if function is None else function.arguments or ""
        if part.index < known:
            return ToolCallDelta(part.index, arguments=arguments)
        if function is None or not function.name:
            raise Garbled("a tool call without a name")
        self._calls[choice] += 1
        return ToolCallDelta(part.index, part.id or f"call_{choice}_{part.index}", function.name, arguments)

    def _count(self, text: str, reasoning: str, calls: tuple[ToolCallDelta, ...]) -> None:
        if self._first_at is None:
            self._first_at = self._clock()
        written = sum(text_bound(call.name or "") + text_bound(call.arguments) for call in calls)
        self.tokens += text_bound(text) + text_bound(reasoning) + written


class BackendError(Exception):
    """A backend has told, within its stream, that it failed. With what it said."""

    def __init__(self, said: bytes) -> None:
        super().__init__("the backend failed within its answer")
        self.said = said
