"""Messages for chat templates that know no tools: tools, calls and results are told in words of ours."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from inference.protocol import ChatMessage, Tool

_HEAD = (
    "You can call functions. Here they are, one JSON object a line, with the JSON schemas of their arguments:\n\n"
    "<tools>\n{tools}\n</tools>\n\n"
    "To call a function, answer with one JSON object within tags, and nothing else:\n\n"
    '<tool_call>\n{{"name": "the function", "arguments": {{"argument": "value"}}}}\n</tool_call>\n\n'
)
_SEVERAL = "Several calls stand one after another, each within its own tags. "
_ONE = "Make one call at a time. "
_TAIL = "What they return comes within <tool_response> tags. If no function helps, answer in words."
_MUST = "What they return comes within <tool_response> tags. Answer with a call now."


def tool_object(tool: Tool) -> dict[str, Any]:
    """A tool as templates and models know it."""
    function: dict[str, Any] = {"name": tool.name, "description": tool.description}
    function["parameters"] = json.loads(tool.parameters) if tool.parameters else {"type": "object", "properties": {}}
    return {"type": "function", "function": function}


def described(
    messages: Sequence[ChatMessage], tools: Sequence[Tool], *, several: bool, required: bool
) -> tuple[ChatMessage, ...]:
    """``messages`` in the roles that every template knows, with the tools in the system message.

    Args:
        several: calls may be made together.
        required: the next answer must be a call.
    """
    plain = tuple(_plain(message) for message in messages)
    if not tools:
        return plain
    listed = "\n".join(json.dumps(tool_object(tool)["function"], ensure_ascii=False) for tool in tools)
    words = _HEAD.format(tools=listed) + (_SEVERAL if several else _ONE) + (_MUST if required else _TAIL)
    if plain and plain[0].role == "system":
        return (msgspec.structs.replace(plain[0], content=f"{plain[0].content}\n\n{words}"), *plain[1:])
    return (ChatMessage("system", words), *plain)


def without_system(messages: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
    """For templates that refuse system messages (Gemma's first): what it says goes to the user's first message."""
    if len(messages) < 2 or messages[0].role != "system" or messages[1].role != "user":
        return tuple(messages)
    content = f"{messages[0].content}\n\n{messages[1].content}"
    return (msgspec.structs.replace(messages[1], content=content), *messages[2:])


def _plain(message: ChatMessage) -> ChatMessage:
    if message.role == "tool":
        return ChatMessage("user", f"<tool_response>\n{message.content}\n</tool_response>")
    if not message.tool_calls:
        return message
    calls = [
        f'<tool_call>\n{{"name": {json.dumps(call.name)}, "arguments": {call.arguments or "{}"}}}\n</tool_call>'
        for call in message.tool_calls
    ]
    return ChatMessage("assistant", "\n".join([message.content, *calls] if message.content else calls))
