"""The chunks of OpenAI's streams as far as we read them. Pure.

Types are checked by msgspec; what is missing is as if it were not told. Fields beyond these are passed over.
"""

from typing import Any

import msgspec

from inference.gateway.remotes.events import Garbled
from inference.protocol import FinishReason, TokenLogprob

_MOST_TOKENS = 2**31 - 1


class CallFunction(msgspec.Struct, frozen=True):
    name: str | None = None
    arguments: str | None = None


class CallPart(msgspec.Struct, frozen=True):
    index: int = 0
    id: str | None = None
    function: CallFunction | None = None


class DeltaPart(msgspec.Struct, frozen=True):
    content: str | None = None
    reasoning_content: str | None = None
    """As DeepSeek, llama-server and vLLM call it."""
    reasoning: str | None = None
    """As others do."""
    refusal: str | None = None
    tool_calls: list[CallPart] | None = None


class LogprobEntry(msgspec.Struct, frozen=True):
    token: str
    logprob: float | None = None
    bytes: list[int] | None = None
    top_logprobs: "list[LogprobEntry] | None" = None


class Logprobs(msgspec.Struct, frozen=True):
    """A chat's have ``content``; a completion's have lists side by side, or, with llama-server, ``content``, too."""

    content: list[LogprobEntry] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class ChoicePart(msgspec.Struct, frozen=True):
    index: int = 0
    delta: DeltaPart | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class PromptDetails(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: PromptDetails | None = None

    @property
    def possible(self) -> bool:
        return 0 <= self.prompt_tokens <= _MOST_TOKENS and 0 <= self.completion_tokens <= _MOST_TOKENS

    @property
    def cached_tokens(self) -> int:
        details = self.prompt_tokens_details
        return 0 if details is None else min(self.prompt_tokens, max(0, details.cached_tokens or 0))


class Chunk(msgspec.Struct, frozen=True):
    choices: list[ChoicePart] | None = None
    usage: Usage | None = None
    error: Any = None
    """Instead of all else, where a stream fails."""


_decoder = msgspec.json.Decoder(Chunk)

_REASONS = {
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
}


def decoded(data: bytes) -> Chunk:
    """Raises Garbled."""
    try:
        chunk = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:
        raise Garbled(f"no chunk of a stream ({fault})") from None
    if chunk.usage is not None and not chunk.usage.possible:
        raise Garbled("a usage that can't be")
    return chunk


def reason_of(word: str) -> FinishReason:
    """Words of a backend's own mean that it has come to its end."""
    return _REASONS.get(word, FinishReason.STOP)


def logprobs_of(told: Logprobs | None) -> tuple[TokenLogprob, ...]:
    if told is None:
        return ()
    if told.content is not None:
        return tuple([_entry(entry) for entry in told.content])
    tokens, logprobs = told.tokens or [], told.token_logprobs or []
    tops = told.top_logprobs or [None] * len(tokens)
    return tuple(
        [
            TokenLogprob(0, token.encode("utf-8", "replace"), logprob, _top(top))
            for token, logprob, top in zip(tokens, logprobs, tops, strict=False)
        ]
    )


def _entry(entry: LogprobEntry) -> TokenLogprob:
    """A backend tells no ids of tokens, and ours are not shown."""
    try:
        piece = entry.token.encode("utf-8", "replace") if entry.bytes is None else bytes(entry.bytes)
    except ValueError:
        raise Garbled("a token's bytes that are none") from None
    return TokenLogprob(0, piece, entry.logprob, tuple([_entry(other) for other in entry.top_logprobs or ()]))


def _top(top: dict[str, float] | None) -> tuple[TokenLogprob, ...]:
    return tuple([TokenLogprob(0, token.encode("utf-8", "replace"), logprob) for token, logprob in (top or {}).items()])
