"""For templates that know no tools, or in no way that we know: what our own description of the tools asks for
(Hermes' form, the commonest in what models were trained on), and what models write instead: a fenced block of JSON, or
the bare object as the whole answer."""

from inference.engine.tools import hermes
from inference.engine.tools.forms import Form, long_id
from inference.engine.tools.json_call import JsonCall


def _scanner(character: str, tools: frozenset[str]) -> JsonCall | None:
    # Without a marker around it, an object with nothing but a name is an answer rather than a call.
    return JsonCall(tools, needs_arguments=True) if character == "{" else None


GENERIC = Form(
    name="generic",
    begins=("<tool_call>", "```json", "```tool_call", "```tool_code"),
    ends=("</tool_call>", "```"),
    bare=True,
    markers=("<tool_call>", "</tool_call>"),
    scanner=_scanner,
    call=hermes.call,
    new_id=long_id,
)
