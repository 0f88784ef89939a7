"""Which family a model's tool calls are of, told by its chat template: nothing is guessed from a name."""

import re

from inference.engine.tools.forms import Form
from inference.engine.tools.gemma import FUNCTION_GEMMA, GEMMA4
from inference.engine.tools.generic import GENERIC
from inference.engine.tools.hermes import HERMES
from inference.engine.tools.llama3 import LLAMA3
from inference.engine.tools.mistral import MISTRAL, MISTRAL_NAMED

_TOOLS = re.compile(r"\btools\b")

_SIGNS: tuple[tuple[tuple[str, ...], Form], ...] = (
    (("[TOOL_CALLS]", "[ARGS]"), MISTRAL_NAMED),
    (("[TOOL_CALLS]",), MISTRAL),
    (("<start_function_call>",), FUNCTION_GEMMA),
    (("<|tool_call>", "call:"), GEMMA4),
    (("<tool_call>", "arguments"), HERMES),
    (("<|python_tag|>", "parameters"), LLAMA3),
    (("<|start_header_id|>", "parameters"), LLAMA3),
)
"""The first whose texts are all in the template."""


def knows_tools(template: str | None) -> bool:
    """Whether the template shows tools to the model; if not, we do (:mod:`inference.engine.tools.described`)."""
    return template is not None and _TOOLS.search(template) is not None


def form_of(template: str | None) -> Form:
    if template is None or not knows_tools(template):
        return GENERIC
    return next((form for signs, form in _SIGNS if all(sign in template for sign in signs)), GENERIC)
