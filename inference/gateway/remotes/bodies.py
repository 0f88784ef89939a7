"""A worker's request → the body that a backend gets. Pure.

What the client did not give is left out, so that the backend's own defaults hold: a worker's are llama.cpp's, and many
backends refuse fields beyond OpenAI's.
"""

from collections.abc import Collection
from typing import Any

import msgspec

from inference.protocol import ChatMessage, Constraint, Embed, Generate, Tool, ToolCall, ToolChoice

_encode = msgspec.json.Encoder().encode

_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
)


def path_of(request: Generate | Embed) -> str:
    """Below the backend's URL."""
    if isinstance(request, Embed):
        return "/embeddings"
    return "/completions" if request.messages is None else "/chat/completions"


def body_of(request: Generate | Embed, model: str, given: Collection[str], max_tokens: int | None = None) -> bytes:
    """
    Args:
        model: as it is called there.
        given: the names of the fields that the client gave.
        max_tokens: of each choice. None: as many as the backend likes.
    """
    if isinstance(request, Embed):
        return _encode(_embedding(request, model))
    body = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    body |= _prompt(request)
    body |= _chat_only(request) if request.messages is not None else _completion_only(request)
    body |= {name: getattr(request.sampling, name) for name in _SAMPLING if name in given}
    if request.sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in request.sampling.logit_bias.items()}
    if max_tokens is not None:  # by the name that the client used: backends differ in which of them they take
        body["max_completion_tokens" if "max_completion_tokens" in given else "max_tokens"] = max_tokens
    if request.stop:
        body["stop"] = request.stop
    if request.n > 1:
        body["n"] = request.n
    if request.ignore_eos:
        body["ignore_eos"] = True
    return _encode(body)


def _embedding(request: Embed, model: str) -> dict[str, Any]:
    body: dict[str, Any] = {"model": model, "input": request.inputs, "encoding_format": "float"}
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    return body


def _prompt(request: Generate) -> dict[str, Any]:
    if request.messages is not None:
        return {"messages": [_message(message) for message in request.messages]}
    return {"prompt": request.tokens if request.tokens is not None else request.text or ""}


def _completion_only(request: Generate) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if request.echo:
        body["echo"] = True
    if request.suffix is not None:
        body["suffix"] = request.suffix
    if request.logprobs is not None:
        body["logprobs"] = request.logprobs
    return body


def _chat_only(request: Generate) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if request.logprobs is not None:
        body["logprobs"] = True
        if request.logprobs:
            body["top_logprobs"] = request.logprobs
    if request.constraint is not None:
        body["response_format"] = _format(request.constraint)
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
        body["tool_choice"] = _choice(request)
        if not request.parallel_tool_calls:
            body["parallel_tool_calls"] = False
    return body


def _message(message: ChatMessage) -> dict[str, Any]:
    body: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is not None:
        body["name"] = message.name
    if message.tool_call_id is not None:
        body["tool_call_id"] = message.tool_call_id
    if message.reasoning is not None:
        body["reasoning_content"] = message.reasoning
    if message.tool_calls:
        body["content"] = message.content or None
        body["tool_calls"] = [_call(call) for call in message.tool_calls]
    return body


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters:
        function["parameters"] = msgspec.Raw(tool.parameters.encode())
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _choice(request: Generate) -> Any:
    if request.forced_tool is not None:
        return {"type": "function", "function": {"name": request.forced_tool}}
    return ToolChoice(request.tool_choice).value


def _format(constraint: Constraint) -> dict[str, Any]:
    if constraint.schema is None:
        return {"type": "json_object"}
    schema = msgspec.Raw(constraint.schema.encode())
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": constraint.strict}}
