"""Llama 3: the whole answer is ``{"name": …, "parameters": …}``, sometimes after ``<|python_tag|>``."""

import json
from collections.abc import Sequence

from inference.engine.tools.forms import Form, NamedSchema, Part, long_id
from inference.engine.tools.json_call import JsonCall


def _scanner(character: str, tools: frozenset[str]) -> JsonCall | None:
    return JsonCall(tools, needs_arguments=True) if character == "{" else None


def _call(tool: NamedSchema) -> Sequence[Part]:
    return f'{{"name": {json.dumps(tool.name)}, "parameters": ', tool.arguments, "}"


LLAMA3 = Form(
    name="llama3",
    begins=("<|python_tag|>",),
    bare=True,
    marked=False,
    between=" \t\r\n;",
    markers=("<|python_tag|>",),
    scanner=_scanner,
    call=_call,
    several=None,  # its templates refuse to show more than one call in a message
    new_id=long_id,
)
