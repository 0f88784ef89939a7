"""A chat's messages: what comes in as OpenAI writes it, as the chat template takes it."""

from typing import Any

from inference.gateway.fields import filled_string, refuse, shown, string, wrong_type
from inference.gateway.tools import calls
from inference.protocol import ChatMessage, ToolCall

MOST_MESSAGES = 10_000
"""More than any context holds. 8 MB of empty ones keep a gateway busy for a second."""

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
"""A ``developer`` message is OpenAI's newer name of a system message; chat templates know the old one."""

_KNOWN_KEYS = frozenset({"role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "refusal"})
_UNSERVED_KEYS = {
    "function_call": "is OpenAI's older form of tool calls: give 'tool_calls'.",
    "audio": "is not supported: the models here take text only.",
}


def messages(value: Any, param: str) -> tuple[ChatMessage, ...]:
    if type(value) is not list:
        wrong_type(value, param, "an array of messages")
    if not value:
        refuse(param, "must hold at least one message.")
    if len(value) > MOST_MESSAGES:
        refuse(param, f"may hold at most {MOST_MESSAGES} messages, not {len(value)}.")
    return tuple([_message(entry, position) for position, entry in enumerate(value)])


def unknown_keys(value: list[dict[str, Any]]) -> list[str]:
    """Keys of messages that mean nothing to us, for the header that names what was ignored."""
    return [
        f"messages[{position}].{key}"
        for position, message in enumerate(value)
        if len(message) > 2
        for key in message
        if key not in _KNOWN_KEYS and key not in _UNSERVED_KEYS
    ]


def _message(value: Any, position: int) -> ChatMessage:
    if type(value) is not dict:
        wrong_type(value, f"messages[{position}]", "an object with 'role' and 'content'")
    param = f"messages[{position}]"
    role = _role(value.get("role"), position)
    content = value.get("content")
    if type(content) is not str:
        # A message that is calls, and nothing else, has no content.
        content = "" if content is None and value.get("tool_calls") else _joined_parts(content, f"{param}.content")
    if len(value) == 2 and "content" in value and role != "tool":
        return ChatMessage(role, content)

    for key, problem in _UNSERVED_KEYS.items():
        if value.get(key):
            refuse(f"{param}.{key}", problem)
    return ChatMessage(
        role,
        content,
        name=_optional(value, "name", param),
        tool_calls=_calls(value, role, param),
        tool_call_id=_answered_call(value, role, param),
        reasoning=_optional(value, "reasoning_content", param) if role == "assistant" else None,
    )


def _optional(message: dict[str, Any], key: str, param: str) -> str | None:
    value = message.get(key)
    if key == "reasoning_content" and value == "":
        return None
    return None if value is None else filled_string(value, f"{param}.{key}")


def _calls(message: dict[str, Any], role: str, param: str) -> tuple[ToolCall, ...]:
    value = message.get("tool_calls")
    if not value:
        return ()
    if role != "assistant":
        refuse(f"{param}.tool_calls", "belongs to messages of the assistant only.")
    return calls(value, f"{param}.tool_calls")


def _answered_call(message: dict[str, Any], role: str, param: str) -> str | None:
    value = message.get("tool_call_id")
    if role != "tool":
        return None
    if value is None:
        refuse(f"{param}.tool_call_id", "is missing; it is the id of the call that this message answers.")
    return filled_string(value, f"{param}.tool_call_id")


def _role(value: Any, position: int) -> str:
    param = f"messages[{position}].role"
    if value is None:
        refuse(param, f"is missing; it is one of: {', '.join(_ROLES)}.")
    role = _ROLES.get(string(value, param))
    if role is None:
        refuse(param, f"must be one of: {', '.join(_ROLES)}; not {shown(value)}.")
    return role


def _joined_parts(value: Any, param: str) -> str:
    """Content that is not plain text: an array of parts, of which we take text."""
    if value is None:
        refuse(param, "is missing; it is a string or an array of text parts.")
    if type(value) is not list:
        wrong_type(value, param, "a string or an array of text parts")
    if not value:
        refuse(param, "must hold at least one part.")
    return "".join([_part(part, f"{param}[{index}]") for index, part in enumerate(value)])


def _part(value: Any, param: str) -> str:
    if type(value) is not dict:
        wrong_type(value, param, 'an object such as {"type": "text", "text": …}')
    kind = value.get("type")
    if kind == "refusal":
        return string(value.get("refusal"), f"{param}.refusal")
    if kind != "text":
        refuse(f"{param}.type", f"must be 'text', not {shown(kind)}: the models here take text only.")
    return string(value.get("text"), f"{param}.text")
