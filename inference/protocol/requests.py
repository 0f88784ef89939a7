"""What a gateway asks of a worker: a text, vectors, or to stop."""

from enum import StrEnum

import msgspec


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call that the assistant made in an earlier turn."""

    id: str
    name: str
    arguments: str
    """JSON, as the model wrote it."""


class ChatMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message as the chat template sees it. ``content`` is plain text: the gateway has joined text parts."""

    role: str
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    """Of an assistant's message."""
    tool_call_id: str | None = None
    """Of a tool's message: the call that it answers."""
    reasoning: str | None = None
    """What the assistant thought before its answer, for templates that show it again."""


class Tool(msgspec.Struct, frozen=True, omit_defaults=True):
    """A function that the model may call."""

    name: str
    description: str = ""
    parameters: str = ""
    """JSON schema of its arguments, as text; empty: none."""
    strict: bool = False
    """Arguments are held to the schema while they are generated."""


class ToolChoice(StrEnum):
    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


class Constraint(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the whole answer must be: any JSON object, or one that a schema describes."""

    schema: str | None = None
    """JSON schema, as text; None: any JSON object."""
    strict: bool = True
    """Keywords that can't be held to are refused; else they are left out of account."""


class Partition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whose cached blocks a request may see and leave behind. Nothing is shared across partitions."""

    name: str
    """The tenant's; on disk, too."""
    key: bytes
    """32 bytes: encrypts this partition's blocks on disk and makes their names unguessable."""
    salt: str = ""
    """``cache_salt``: only requests with the same one share blocks."""
    shared_name: str = ""
    """The partition of declared prompts; empty: none."""
    shared_key: bytes = b""
    shareable_messages: int = 0
    """So many leading messages were declared shareable: blocks wholly within them belong to the shared partition."""

    def __repr__(self) -> str:
        """Without its keys: tracebacks are logged with what they hold."""
        return f"Partition(name={self.name!r}, shareable_messages={self.shareable_messages})"


class Sampling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How to choose tokens; values are validated by the gateway.

    The defaults are llama.cpp's and not OpenAI's (temperature 1 over the whole vocabulary), under which small and
    quantized models lose the thread: their unlikely tokens are noise.
    """

    temperature: float = 0.8
    """0 means greedy."""
    top_p: float = 0.95
    top_k: int = 40
    """0 means all."""
    min_p: float = 0.05
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None
    """The same seed, prompt and batch shapes give the same text. None: drawn at random."""


class Generate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="generate"):
    """Generate text. Exactly one of ``messages``, ``text`` and ``tokens`` is given."""

    id: int
    """Unique on this connection."""
    request_id: str
    """The client's or the gateway's ``X-Request-ID``, for logs."""
    traceparent: str = ""
    """The W3C Trace Context in which it is served. Empty: it has none."""
    messages: tuple[ChatMessage, ...] | None = None
    text: str | None = None
    tokens: tuple[int, ...] | None = None
    max_tokens: int | None = None
    """None: up to the end of the context."""
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    echo: bool = False
    """Completions only: the prompt's text comes first in the output."""
    suffix: str | None = None
    """Completions only: what comes after the text that is to be generated."""
    sampling: Sampling = Sampling()
    n: int = 1
    """Choices, each with an index from 0. Their prompt is computed once."""
    logprobs: int | None = None
    """Log probabilities of the chosen tokens, and of so many of the likeliest beside each (0–20). None: not wanted."""
    constraint: Constraint | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice.AUTO
    forced_tool: str | None = None
    """Under ``required``: the one tool that must be called."""
    parallel_tool_calls: bool = True
    partition: Partition | None = None
    """None: nothing of this request is cached."""
    tenant: str = ""
    """Work is shared between tenants, in proportion to their weights."""
    weight: float = 1.0
    priority: int = 5
    """0–10, higher first."""
    queue_seconds: float | None = None
    """Fails with 503 if it waited so long in the worker without a start. None: it waits."""
    prefixes: tuple[bytes, ...] = ()
    """Its chain (:mod:`inference.prefixes`), for the worker to tell which of them it holds."""
    granted_tokens: int | None = None
    """What prompt and all choices together may come to, until a Grant raises it. None: there is no bound."""


class Embed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="embed"):
    """Turn each input into a vector."""

    id: int
    """Unique on this connection, among Generate's too."""
    request_id: str
    traceparent: str = ""
    inputs: tuple[str | tuple[int, ...], ...]
    """Texts, or prompts that are tokens already."""
    dimensions: int | None = None
    """Keep so many leading components and normalise again. None: all."""
    tenant: str = ""
    weight: float = 1.0
    priority: int = 5
    granted_tokens: int | None = None
    """What all inputs together may come to, until a Grant raises it. None: there is no bound."""


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Stop a request between two steps. Its last message is then ``Finished(reason="cancelled")``."""

    id: int


class Grant(msgspec.Struct, frozen=True, kw_only=True, tag="grant"):
    """The answer to Wants."""

    id: int
    tokens: int
    """What the request may now come to in all."""
    last: bool = False
    """There will be no more: end with what there is."""
