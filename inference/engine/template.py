"""Chat templates: the model's own Jinja program, rendered in a sandbox.

A GGUF is a file from the internet, and so is the template in it. Jinja's sandbox refuses attribute tricks and writes;
what it does not stop is bounded by :mod:`inference.engine.bounded_jinja`.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2

from inference.engine.bounded_jinja import BoundedEnvironment
from inference.engine.growth import Exhausted, gathered, refuse_indent
from inference.engine.tools.described import tool_object
from inference.protocol import ChatMessage, Tool

MAX_RENDER_CHARACTERS = 64 * 1024 * 1024


_PYTHON_FAULTS = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError, MemoryError)


class TemplateFault(Exception):
    """The template can't be used at all, or refused these messages; ``str()`` says why."""


class ChatTemplate:
    def __init__(self, source: str, *, bos_token: str, eos_token: str) -> None:
        """Raises:
        TemplateFault: the template has a syntax error.
        """
        self._environment = BoundedEnvironment()
        self._environment.add_filter("tojson", _tojson)
        self._environment.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "bos_token": bos_token,
            "eos_token": eos_token,
        }
        self._environment.begin()
        try:
            self._template = self._environment.from_string(source)
        except (jinja2.TemplateError, Exhausted, *_PYTHON_FAULTS) as fault:
            raise TemplateFault(f"the model's chat template is broken: {fault}") from fault

    def render(
        self, messages: Sequence[ChatMessage], tools: Sequence[Tool] = (), *, add_generation_prompt: bool = True
    ) -> str:
        """The prompt for the assistant's next message, or the messages alone.

        Raises:
            TemplateFault: the template refused the messages (roles in an order it does not know, say) or ran too long.
        """
        variables = {
            "tools": [tool_object(tool) for tool in tools] or None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return self._render([_given(message, parse=True) for message in messages], variables)
        except TemplateFault:
            if not any(message.tool_calls for message in messages):
                raise
        # Most templates want a call's arguments as an object, some as the text that the model wrote.
        return self._render([_given(message, parse=False) for message in messages], variables)

    def _render(self, messages: list[dict[str, Any]], variables: dict[str, Any]) -> str:
        parts: list[str] = []
        length = 0
        self._environment.begin()
        try:
            for part in self._template.generate(messages=messages, **variables):
                parts.append(part)
                length += len(part)
                if length > MAX_RENDER_CHARACTERS:
                    raise TemplateFault("the model's chat template does not come to an end")
        except Exhausted as fault:
            raise TemplateFault(f"the model's chat template does not come to an end: {fault}") from fault
        except (jinja2.TemplateError, *_PYTHON_FAULTS) as fault:
            raise TemplateFault(f"the model's chat template refused the messages: {fault}") from fault
        return "".join(parts)


def _given(message: ChatMessage, *, parse: bool) -> dict[str, Any]:
    """A message as templates expect it; a key is there only if it has something to say."""
    given: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name:
        given["name"] = message.name
    if message.reasoning:
        given["reasoning_content"] = message.reasoning
    if message.tool_call_id:
        given["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        given["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call.arguments) if parse else call.arguments},
            }
            for call in message.tool_calls
        ]
    return given


def _arguments(text: str) -> Any:
    try:
        return json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _tojson(value: Any, indent: int | None = None, ensure_ascii: bool = False, **_: Any) -> str:
    # Jinja's own escapes HTML, which templates written for models do not expect.
    if indent is None:
        return json.dumps(value, ensure_ascii=ensure_ascii)
    refuse_indent(indent)
    return "".join(gathered(json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent).iterencode(value)))
