"""What a worker answers, request by request.

Generate: Accepted, then Delta…, and exactly one of Finished or Failed. Embed: exactly one of Embedded or Failed. Before
the last one Wants may come, of requests that were granted a number of tokens.
"""

from enum import StrEnum

import msgspec


class Accepted(msgspec.Struct, frozen=True, kw_only=True, tag="accepted"):
    """The prompt fits. Sent before any text, when the prompt was tokenized."""

    id: int
    prompt_tokens: int


class Wants(msgspec.Struct, frozen=True, kw_only=True, tag="wants"):
    """A request has nearly used what it was granted, or its prompt alone is more. It waits for a Grant when it has."""

    id: int
    tokens: int
    """What it needs in all to go on: at least a token more for each choice."""


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    """Of a backend elsewhere: it keeps the rest to itself."""
    CANCELLED = "cancelled"


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A token and its natural log probability under the model, before sampling's own changes to it."""

    token: int
    piece: bytes
    """What it stands for; maybe a part of a character."""
    logprob: float | None
    """None for the first token of an echoed prompt: nothing comes before it."""
    top: "tuple[TokenLogprob, ...]" = ()
    """The likeliest tokens at this place, as many as were asked for; these have no ``top`` themselves."""


class ToolCallDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """A part of a tool call. ``id`` and ``name`` come with its first part only."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class Delta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="delta"):
    """More of one choice. Text is whole UTF-8 characters, never a part of a stop string."""

    id: int
    text: str = ""
    tokens: int = 0
    """Tokens generated for this request so far, all choices together."""
    index: int = 0
    """The choice."""
    reasoning: str = ""
    """What a thinking model wrote before its answer."""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens since this choice's last Delta, if asked for."""
    finish: FinishReason | None = None
    """This choice ends here."""


class WorkerSpan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part of what a worker did for a request that is traced. Times are nanoseconds since the epoch."""

    name: str
    began_ns: int
    ended_ns: int
    attributes: dict[str, str | int | float] = {}


class Finished(msgspec.Struct, frozen=True, kw_only=True, tag="finished"):
    """The request is complete: every choice has had its last Delta, or it was cancelled."""

    id: int
    reason: FinishReason
    """Of the choice that ended last."""
    prompt_tokens: int
    completion_tokens: int
    """Of all choices together."""
    cached_tokens: int = 0
    """Prompt tokens that were not computed."""
    queue_seconds: float = 0.0
    """From arrival at the worker to the first prefill."""
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    spans: tuple[WorkerSpan, ...] = ()
    """Of a request that is traced."""


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    id: int
    status: int
    """HTTP status that fits: 400 for the client's fault, 500 for ours."""
    code: str
    message: str
    param: str | None = None
    retry_after: int | None = None
    """Seconds after which it may help to ask again, where that is known."""


class Embedded(msgspec.Struct, frozen=True, kw_only=True, tag="embedded"):
    id: int
    vectors: tuple[bytes, ...]
    """One for each input: little-endian float32, of length 1 in the Euclidean norm."""
    prompt_tokens: int
    spans: tuple[WorkerSpan, ...] = ()
    """Of a request that is traced."""
