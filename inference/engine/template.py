"""Chat templates: the model's own Jinja program, rendered in a sandbox.

A GGUF is a file from the internet, and so is the template in it. The sandbox refuses attribute tricks and writes; what
it does not stop (long loops, huge output) is bounded here.
"""

import json
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from inference.protocol import ChatMessage

MAX_RENDER_SECONDS = 5.0
MAX_RENDER_CHARACTERS = 64 * 1024 * 1024


class TemplateFault(Exception):
    """The template can't be used at all, or refused these messages; ``str()`` says why."""


class ChatTemplate:
    def __init__(self, source: str, *, bos_token: str, eos_token: str) -> None:
        """Raises:
        TemplateFault: the template has a syntax error.
        """
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _tojson
        environment.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "bos_token": bos_token,
            "eos_token": eos_token,
        }
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as fault:
            raise TemplateFault(f"the model's chat template is broken: {fault}") from fault

    def render(self, messages: Sequence[ChatMessage], *, add_generation_prompt: bool = True) -> str:
        """The prompt for the assistant's next message, or the messages alone.

        Raises:
            TemplateFault: the template refused the messages (roles in an order it does not know, say) or ran too long.
        """
        given = [
            {"role": message.role, "content": message.content} | ({"name": message.name} if message.name else {})
            for message in messages
        ]
        deadline = time.monotonic() + MAX_RENDER_SECONDS
        parts: list[str] = []
        length = 0
        try:
            for part in self._template.generate(messages=given, add_generation_prompt=add_generation_prompt):
                parts.append(part)
                length += len(part)
                if length > MAX_RENDER_CHARACTERS or time.monotonic() > deadline:
                    raise TemplateFault("the model's chat template does not come to an end")
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as fault:
            raise TemplateFault(f"the model's chat template refused the messages: {fault}") from fault
        return "".join(parts)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _tojson(value: Any, indent: int | None = None) -> str:
    # Jinja's own escapes HTML, which templates written for models do not expect.
    return json.dumps(value, ensure_ascii=False, indent=indent)
