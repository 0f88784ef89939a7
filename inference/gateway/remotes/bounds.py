"""What can't be exceeded, in tokens of a tokenizer that we don't have. Pure.

A token stands for a byte of text at least. Templates put words of their own around a prompt; a backend's are not known,
so that there is room for such as are usual.
"""

from inference.protocol import Embed, Generate

_PER_PROMPT = 128
_PER_MESSAGE = 16
_PER_TEXT = 2
"""Texts that no template is put around: a beginning and an end."""


def prompt_bound(request: Generate | Embed) -> int:
    """More tokens than its prompt has. Of several inputs, all together."""
    if isinstance(request, Embed):
        return sum(_text(each) for each in request.inputs)
    if request.messages is None:
        suffix = 0 if request.suffix is None else _text(request.suffix)
        return _text(request.tokens if request.tokens is not None else request.text or "") + suffix
    total = _PER_PROMPT + _PER_MESSAGE * len(request.messages)
    for message in request.messages:
        total += text_bound(message.content) + text_bound(message.reasoning or "") + text_bound(message.name or "")
        for call in message.tool_calls:
            total += _PER_MESSAGE + text_bound(call.name) + text_bound(call.arguments)
    for tool in request.tools:
        total += _PER_MESSAGE + text_bound(tool.name) + text_bound(tool.description) + text_bound(tool.parameters)
    if request.constraint is not None:
        total += text_bound(request.constraint.schema or "")
    return total


def text_bound(text: str) -> int:
    """No fewer than a text has."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _text(content: str | tuple[int, ...]) -> int:
    return _PER_TEXT + (text_bound(content) if isinstance(content, str) else len(content))
