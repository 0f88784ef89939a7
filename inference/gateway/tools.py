"""Tools, the choice among them, calls of earlier turns, and the form of the answer: as OpenAI's API writes them."""

import re
from typing import Any

import msgspec

from inference.gateway.fields import boolean, filled_string, refuse, shown, string, wrong_type
from inference.protocol import Constraint, Tool, ToolCall, ToolChoice

MAX_TOOLS = 128
MAX_SCHEMA_BYTES = 64 * 1024
"""The engine takes no larger ones; here they are refused before they travel."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_json = msgspec.json.Encoder().encode


def tools(value: Any, param: str) -> tuple[Tool, ...]:
    if type(value) is not list:
        wrong_type(value, param, "an array of tools")
    if len(value) > MAX_TOOLS:
        refuse(param, f"may hold at most {MAX_TOOLS} tools, not {len(value)}.")
    found = tuple([_tool(entry, f"{param}[{position}]") for position, entry in enumerate(value)])
    names = [tool.name for tool in found]
    for position, name in enumerate(names):
        if name in names[:position]:
            refuse(f"{param}[{position}].function.name", f"is {shown(name)} again: each tool needs its own name.")
    return found


def tool_choice(value: Any, param: str) -> tuple[ToolChoice, str | None]:
    """The choice, and the one tool that must be called."""
    if type(value) is str:
        if value not in ("none", "auto", "required"):
            refuse(param, f"must be 'none', 'auto', 'required', or an object that names a tool; not {shown(value)}.")
        return ToolChoice(value), None
    if type(value) is not dict:
        wrong_type(value, param, "'none', 'auto', 'required', or an object that names a tool")
    kind = value.get("type")
    if kind != "function":
        refuse(f"{param}.type", f"must be 'function', not {shown(kind)}.")
    return ToolChoice.REQUIRED, _function_name(value, param)


def calls(value: Any, param: str) -> tuple[ToolCall, ...]:
    """Calls that the assistant made in an earlier turn."""
    if type(value) is not list:
        wrong_type(value, param, "an array of calls")
    return tuple([_call(entry, f"{param}[{position}]") for position, entry in enumerate(value)])


def response_format(value: Any, param: str) -> Constraint | None:
    if type(value) is not dict:
        wrong_type(value, param, 'an object such as {"type": "json_object"}')
    kind = value.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return Constraint()
    if kind != "json_schema":
        refuse(f"{param}.type", f"must be 'text', 'json_object' or 'json_schema', not {shown(kind)}.")
    named = value.get("json_schema")
    if type(named) is not dict:
        wrong_type(named, f"{param}.json_schema", "an object with 'name' and 'schema'")
    schema = _schema(named.get("schema"), f"{param}.json_schema.schema")
    strict = named.get("strict")
    return Constraint(schema, strict=strict is not None and boolean(strict, f"{param}.json_schema.strict"))


def _tool(value: Any, param: str) -> Tool:
    if type(value) is not dict:
        wrong_type(value, param, 'an object such as {"type": "function", "function": {"name": …}}')
    if value.get("type") != "function":
        refuse(f"{param}.type", f"must be 'function', not {shown(value.get('type'))}: no other tools are served.")
    name = _function_name(value, param)
    function = value["function"]
    description, parameters, strict = (function.get(key) for key in ("description", "parameters", "strict"))
    return Tool(
        name,
        description="" if description is None else string(description, f"{param}.function.description"),
        parameters="" if parameters is None else _schema(parameters, f"{param}.function.parameters"),
        strict=strict is not None and boolean(strict, f"{param}.function.strict"),
    )


def _call(value: Any, param: str) -> ToolCall:
    if type(value) is not dict:
        wrong_type(value, param, "an object with 'id' and 'function'")
    name = _function_name(value, param)
    arguments = value["function"].get("arguments")
    return ToolCall(
        filled_string(value.get("id"), f"{param}.id"),
        name,
        # Some clients give the object itself.
        _json(arguments).decode() if type(arguments) is dict else string(arguments, f"{param}.function.arguments"),
    )


def _function_name(value: dict[str, Any], param: str) -> str:
    """The name within ``function``, which is the one thing that every form of a tool has."""
    function = value.get("function")
    if type(function) is not dict:
        wrong_type(function, f"{param}.function", "an object with 'name'")
    name = string(function.get("name"), f"{param}.function.name")
    if not _NAME.fullmatch(name):
        refuse(f"{param}.function.name", f"must be 1 to 64 letters, digits, '_', '-' or '.', not {shown(name)}.")
    return name


def _schema(value: Any, param: str) -> str:
    if type(value) is not dict:
        wrong_type(value, param, "a JSON schema, which is an object")
    text = _json(value)
    if len(text) > MAX_SCHEMA_BYTES:
        refuse(param, f"has {len(text)} bytes, and at most {MAX_SCHEMA_BYTES} are taken.")
    return text.decode()
