"""What can be embedded: the forms of ``input`` in a body of ``/v1/embeddings``, and lists of token ids anywhere."""

from typing import Annotated, Any

import msgspec

from inference.gateway import fields

MOST_INPUTS = 2048
"""OpenAI's own limit."""

_FORMS = "a string, an array of strings, an array of token ids, or an array of such arrays"

_TOKEN_IDS = tuple[Annotated[int, msgspec.Meta(ge=0, lt=2**31)], ...]


def inputs(value: Any, param: str) -> tuple[str | tuple[int, ...], ...]:
    """One text, its token ids, or an array of either; none empty, at most 2,048."""
    if type(value) is str:
        return (fields.filled_string(value, param),)
    if type(value) is not list:
        fields.wrong_type(value, param, _FORMS)
    if not value:
        fields.refuse(param, "must not be empty.")
    if not isinstance(value[0], str | list):
        return (token_ids(value, param),)
    if len(value) > MOST_INPUTS:
        fields.refuse(param, f"may hold at most {MOST_INPUTS} inputs, not {len(value)}: send them in several requests.")
    return tuple(_input(each, f"{param}[{position}]") for position, each in enumerate(value))


def _input(value: Any, param: str) -> str | tuple[int, ...]:
    if type(value) is str:
        return fields.filled_string(value, param)
    if type(value) is not list:
        fields.wrong_type(value, param, "a string or an array of token ids")
    return token_ids(value, param)


def token_ids(value: list[Any], param: str) -> tuple[int, ...]:
    """The ids as they are. Megabytes of them fit into a body, so good ones are not looked at one by one in Python."""
    if not value:
        fields.refuse(param, "must not be empty.")
    try:
        return msgspec.convert(value, _TOKEN_IDS)
    except msgspec.ValidationError:
        position, wrong = next(each for each in enumerate(value) if not _is_token_id(each[1]))
        fields.refuse(f"{param}[{position}]", f"must be a token id, not {fields.shown(wrong)}.")


def _is_token_id(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**31
