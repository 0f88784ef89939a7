"""Body → one frozen request. Whatever is wrong ends here, with the field named.

The checks are written by hand rather than derived from types: msgspec's own messages speak of Python's types and can't
say what would be right.
"""

from collections.abc import Mapping, Set
from typing import Any

import msgspec

from inference.gateway import fields
from inference.gateway.inputs import inputs, token_ids
from inference.gateway.messages import messages, unknown_keys
from inference.gateway.tools import response_format, tool_choice, tools
from inference.protocol import ChatMessage, Constraint, Sampling, Tool, ToolChoice
from registry.errors import InvalidRequest

COMPLETION_MAX_TOKENS = 16
"""OpenAI's default for text completions. A chat goes on to its end or to the end of the context."""

DEFAULT_PRIORITY = 5

MAX_CHOICES = 16
"""Of each prompt."""

MAX_PROMPTS = 32
"""Of one completion; each is a request of its own to the worker."""


class InferenceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A valid request. Exactly one of ``messages``, ``text``, ``tokens`` and ``inputs`` is set."""

    kind: str
    """The capability it needs: ``chat``, ``completion`` or ``embedding``."""
    model: str | None
    """None: the default model."""
    messages: tuple[ChatMessage, ...] | None = None
    text: str | None = None
    tokens: tuple[int, ...] | None = None
    further_prompts: tuple[str | tuple[int, ...], ...] = ()
    """Of a completion, after the one in ``text`` or ``tokens``: each gets choices of its own."""
    inputs: tuple[str | tuple[int, ...], ...] = ()
    """To embed: texts, or texts that are tokens already."""
    dimensions: int | None = None
    """Of the embeddings. None: as many as the model has."""
    base64: bool = False
    """How embeddings are written: in base64, or as numbers."""
    max_tokens: int | None = None
    """None: up to the end of the context."""
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    echo: bool = False
    suffix: str | None = None
    """What comes after the text that is wanted."""
    n: int = 1
    """Choices of each prompt."""
    logprobs: int | None = None
    """So many of the likeliest tokens are told beside the chosen ones. None: not even those."""
    constraint: Constraint | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice.AUTO
    forced_tool: str | None = None
    """Under ``required``: the one tool that must be called."""
    parallel_tool_calls: bool = True
    sampling: Sampling = Sampling()
    stream: bool = False
    include_usage: bool = False
    capabilities: frozenset[str] = frozenset()
    priority: int = DEFAULT_PRIORITY
    """0–10, higher first in the worker's queue."""
    cache_salt: str | None = None
    """Only requests of one tenant with the same one share cached blocks."""
    ignored: tuple[str, ...] = ()
    """Names of the fields that we don't know."""
    given: Set[str] = frozenset()
    """Of fields with a default or another name: those that the client gave. Backends elsewhere have defaults of their
    own."""

    @property
    def choices(self) -> int:
        return self.n * (1 + len(self.further_prompts))


def chat(body: bytes) -> InferenceRequest:
    """A body of ``/v1/chat/completions``.

    Raises:
        InvalidRequest: what is wrong, where, and what would be right.
    """
    raw = json_object(body)
    values, ignored = _check(raw, _CHAT)
    if "messages" not in values:
        fields.refuse("messages", "is missing; it is an array of objects with 'role' and 'content'.")
    ignored += unknown_keys(raw["messages"])
    return _request(
        "chat",
        values,
        ignored,
        messages=values["messages"],
        max_tokens=_chat_max_tokens(values),
        logprobs=_chat_logprobs(values),
        constraint=values.get("response_format"),
        **_tools(values),
    )


def completion(body: bytes) -> InferenceRequest:
    """A body of ``/v1/completions``. Raises as :func:`chat`."""
    values, ignored = _check(json_object(body), _COMPLETION)
    if "prompt" not in values:
        fields.refuse("prompt", "is missing; it is a string, an array of token ids, or an array of prompts.")
    prompt, *further = values["prompt"]
    echo, suffix, logprobs = values.get("echo", False), values.get("suffix") or None, values.get("logprobs")
    if echo and logprobs is not None:
        # Every token of the prompt would have to be computed with its logits, whatever of it is cached.
        fields.refuse("echo", "is not supported together with 'logprobs': leave one of them out.")
    if echo and suffix is not None:
        fields.refuse("echo", "is not supported together with 'suffix': leave one of them out.")
    if values.get("best_of", values.get("n", 1)) != values.get("n", 1):
        fields.refuse("best_of", "must be equal to 'n': all choices that are made are given.")
    return _request(
        "completion",
        values,
        ignored,
        text=prompt if type(prompt) is str else None,
        tokens=prompt if type(prompt) is tuple else None,
        further_prompts=tuple(further),
        max_tokens=values.get("max_tokens", COMPLETION_MAX_TOKENS),
        echo=echo,
        suffix=suffix,
        logprobs=logprobs,
    )


def embedding(body: bytes) -> InferenceRequest:
    """A body of ``/v1/embeddings``. Raises as :func:`chat`."""
    values, ignored = _check(json_object(body), _EMBEDDING)
    if "input" not in values:
        fields.refuse("input", "is missing; it is a string, an array of strings, or an array of token ids.")
    return InferenceRequest(
        kind="embedding",
        model=values.get("model"),
        inputs=values["input"],
        dimensions=values.get("dimensions"),
        base64=values.get("encoding_format") == "base64",
        capabilities=values.get("capabilities", _NONE),
        priority=values.get("priority", DEFAULT_PRIORITY),
        ignored=tuple(ignored),
    )


def json_object(body: bytes) -> dict[str, Any]:
    """What a body holds, before it is checked. Raises InvalidRequest."""
    try:
        raw = _decoder.decode(body)
    except (ValueError, RecursionError) as fault:
        raise InvalidRequest(f"The request's body is not valid JSON: {_json_fault(body, fault)}.") from None
    if type(raw) is not dict:
        raise InvalidRequest('The request\'s body must be a JSON object, {"model": …}.')
    return raw


_decoder = msgspec.json.Decoder()


def _json_fault(body: bytes, fault: Exception) -> str:
    """What is wrong and where. msgspec gives the byte, except where strings or the body end."""
    if isinstance(fault, RecursionError):
        return "it is nested too deeply"
    try:
        body.decode()
    except UnicodeDecodeError as not_text:
        return f"byte {not_text.start} is not UTF-8"
    if not body.strip():
        return "it is empty"
    message = str(fault)
    if "truncated" in message:
        return f"it ends too early, at byte {len(body)} (or a \\u escape lacks its other half)"
    return message.removeprefix("JSON is malformed: ")


def _check(raw: dict[str, Any], known: Mapping[str, fields.Check]) -> tuple[dict[str, Any], list[str]]:
    """The checked values of the fields that are there (null is the same as absent), and the names of unknown ones."""
    values: dict[str, Any] = {}
    ignored: list[str] = []
    for name, value in raw.items():
        check = known.get(name)
        if check is None:
            ignored.append(name)
        elif value is not None:
            values[name] = check(value, name)
    return values, ignored


def _request(kind: str, values: dict[str, Any], ignored: list[str], **own: Any) -> InferenceRequest:
    stream = values.get("stream", False)
    if "stream_options" in values and not stream:
        fields.refuse("stream_options", 'is allowed only with "stream": true.')
    sampling = {name: values[name] for name in _SAMPLING if name in values}
    return InferenceRequest(
        kind=kind,
        model=values.get("model"),
        stop=values.get("stop", ()),
        ignore_eos=values.get("ignore_eos", False),
        n=values.get("n", 1),
        sampling=Sampling(**sampling) if sampling else _DEFAULT_SAMPLING,
        stream=stream,
        include_usage=values.get("stream_options", False),
        capabilities=values.get("capabilities", _NONE),
        priority=values.get("priority", DEFAULT_PRIORITY),
        cache_salt=values.get("cache_salt"),
        ignored=tuple(ignored),
        given=values.keys() & _TOLD_WHEN_GIVEN,
        **own,
    )


def _chat_max_tokens(values: dict[str, Any]) -> int | None:
    old, new = values.get("max_tokens"), values.get("max_completion_tokens")
    if old is not None and new is not None and old != new:
        fields.refuse("max_tokens", "is the old name of 'max_completion_tokens': give only one of them.")
    return old if new is None else new


def _chat_logprobs(values: dict[str, Any]) -> int | None:
    wanted, count = values.get("logprobs", False), values.get("top_logprobs", 0)
    if count and not wanted:
        fields.refuse("top_logprobs", 'is allowed only with "logprobs": true.')
    return count if wanted else None


def _tools(values: dict[str, Any]) -> dict[str, Any]:
    given: tuple[Tool, ...] = values.get("tools", ())
    choice, forced = values.get("tool_choice", (ToolChoice.AUTO, None))
    if not given and choice is ToolChoice.REQUIRED:
        fields.refuse("tool_choice", "asks for a call, but there are no 'tools' to call.")
    if forced is not None and forced not in [tool.name for tool in given]:
        fields.refuse("tool_choice.function.name", f"must be the name of one of the tools, not {fields.shown(forced)}.")
    return {
        "tools": given,
        "tool_choice": choice if given else ToolChoice.AUTO,
        "forced_tool": forced,
        "parallel_tool_calls": values.get("parallel_tool_calls", True),
    }


def _prompts(value: Any, param: str) -> tuple[str | tuple[int, ...], ...]:
    """A string or token ids, or an array of these."""
    if type(value) is str:
        return (value,)
    if type(value) is not list:
        fields.wrong_type(value, param, "a string, an array of token ids, or an array of prompts")
    if not value:
        fields.refuse(param, "must not be empty.")
    if not isinstance(value[0], str | list):
        return (token_ids(value, param),)
    if len(value) > MAX_PROMPTS:
        fields.refuse(param, f"may hold at most {MAX_PROMPTS} prompts, not {len(value)}.")
    return tuple([_prompt(entry, f"{param}[{position}]") for position, entry in enumerate(value)])


def _prompt(value: Any, param: str) -> str | tuple[int, ...]:
    if type(value) is list:
        return token_ids(value, param)
    return fields.string(value, param)


_MOST_TOKENS = 2**31 - 1
"""More than any context holds; the engine stops at the end of its own."""

_NONE: frozenset[str] = frozenset()
_DEFAULT_SAMPLING = Sampling()

_SAMPLING: dict[str, fields.Check] = {
    "temperature": fields.number(0, 2),
    "top_p": fields.number(0, 1, above_low=True),
    "top_k": fields.whole(0, 2**31 - 1),
    "min_p": fields.number(0, 1),
    "presence_penalty": fields.number(-2, 2),
    "frequency_penalty": fields.number(-2, 2),
    "repetition_penalty": fields.number(0, 10, above_low=True),
    "logit_bias": fields.logit_bias,
    "seed": fields.whole(-(2**63), 2**63 - 1),
}

_TOLD_WHEN_GIVEN = frozenset({*_SAMPLING, "max_completion_tokens"})

_COMMON: dict[str, fields.Check] = {
    **_SAMPLING,
    "model": fields.filled_string,
    "stop": fields.stop,
    "stream": fields.boolean,
    "stream_options": fields.stream_options,
    "ignore_eos": fields.boolean,
    "capabilities": fields.words,
    "priority": fields.whole(0, 10),
    "cache_salt": fields.filled_string,
    "n": fields.whole(1, MAX_CHOICES),
}

_NO_FUNCTIONS = "it is OpenAI's older form of tools; give 'tools' and 'tool_choice'."

_CHAT: dict[str, fields.Check] = {
    **_COMMON,
    "messages": messages,
    "max_tokens": fields.whole(1, _MOST_TOKENS),
    "max_completion_tokens": fields.whole(1, _MOST_TOKENS),
    "logprobs": fields.boolean,
    "top_logprobs": fields.whole(0, 20),
    "tools": tools,
    "tool_choice": tool_choice,
    "parallel_tool_calls": fields.boolean,
    "functions": fields.unserved(_NO_FUNCTIONS, []),
    "function_call": fields.unserved(_NO_FUNCTIONS, "none", "auto"),
    "response_format": response_format,
    "modalities": fields.unserved("the models here write text only.", ["text"], []),
    "audio": fields.unserved("the models here write text only."),
}

_COMPLETION: dict[str, fields.Check] = {
    **_COMMON,
    "prompt": _prompts,
    "max_tokens": fields.whole(0, _MOST_TOKENS),
    "echo": fields.boolean,
    "best_of": fields.whole(1, MAX_CHOICES),
    "logprobs": fields.whole(0, 5),
    "suffix": fields.string,
}

_EMBEDDING: dict[str, fields.Check] = {
    "model": fields.filled_string,
    "input": inputs,
    "dimensions": fields.whole(1, _MOST_TOKENS),
    "encoding_format": fields.one_of("float", "base64"),
    "capabilities": fields.words,
    "priority": fields.whole(0, 10),
}
