"""Hermes and Qwen: ``<tool_call>`` around one JSON object for each call, anywhere in the answer."""

import json
from collections.abc import Sequence

from inference.engine.tools.forms import Form, NamedSchema, Part, long_id
from inference.engine.tools.json_call import JsonCall


def scanner(character: str, tools: frozenset[str]) -> JsonCall | None:
    return JsonCall(tools) if character == "{" else None


def call(tool: NamedSchema) -> Sequence[Part]:
    return (
        f'<tool_call>\n{{"name": {json.dumps(tool.name)}, "arguments": ',
        tool.arguments,
        "}\n</tool_call>",
    )


HERMES = Form(
    name="hermes",
    begins=("<tool_call>",),
    ends=("</tool_call>",),
    markers=("<tool_call>", "</tool_call>"),
    scanner=scanner,
    call=call,
    new_id=long_id,
)
