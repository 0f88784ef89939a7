"""How large the values of a chat template are, and what one step would make of them: refused before it is made. Pure.

Every value that a template makes is weighed once it is there (:func:`weight`), so a step begins with values of a
bounded weight. What remains are the steps that make far more of them at once: they are told by their names here.
"""

import re
from collections.abc import Iterable, Mapping, ValuesView
from collections.abc import Set as AnySet
from typing import Any

MAX_CHARACTERS = 16 * 1024 * 1024
MAX_ITEMS = 1_000_000
_ITEM_CHARACTERS = 64
"""What each value in a list counts for at least: it takes as many bytes."""
_MAX_WIDTH = 100_000
_MAX_BITS = 4096
_MAX_INDENT = 16

_WIDE_FORMAT = re.compile(r"[%{][^%{}]*\d{6}|\{[^{}]*:[^{}]*\{")
"""A width of six digits, or one that a value gives (``{:{width}}``)."""

_FILTERS_WITH_WIDTHS = frozenset({"batch", "center", "indent", "round", "slice", "truncate"})
_FILTERS_OF_PIECES = frozenset({"batch", "list", "slice", "sort", "striptags", "title", "unique"})
"""They make a list of a text."""
_METHODS_WITH_WIDTHS = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs"})
_METHODS_OF_PIECES = frozenset({"split", "rsplit", "splitlines"})


class Exhausted(Exception):
    """The template took more than it may; ``str()`` says of what."""


def weight(value: Any) -> int:
    """About how many characters a value has when it is written out: what is in it twice counts twice.

    Raises:
        Exhausted: more than :data:`MAX_CHARACTERS`.
    """
    total = 0
    pending = [value]
    while pending:
        item = pending.pop()
        total += len(item) if isinstance(item, str | bytes) else _ITEM_CHARACTERS
        if isinstance(item, Mapping):
            pending += item
            pending += item.values()
        elif isinstance(item, list | tuple | AnySet | ValuesView):
            pending += item
        if total > MAX_CHARACTERS or len(pending) > MAX_ITEMS:
            raise Exhausted("a list that grows too large")
    return total


def refuse_text(characters: int) -> None:
    if characters > MAX_CHARACTERS:
        raise Exhausted("a text that grows too large")


def gathered(values: Iterable[Any], between: int = 0) -> list[Any]:
    """The values, which may be made one by one, with room for ``between`` characters between them.

    Raises:
        Exhausted: all together are too large.
    """
    total = 0
    found = []
    for value in values:
        total += max(weight(value), _ITEM_CHARACTERS) + between
        refuse_text(total)
        found.append(value)
    return found


def refuse_method(function: Any, args: tuple[Any, ...]) -> None:
    """Methods that make something much larger than their value in a single step."""
    owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
    if isinstance(owner, bytes | int):
        if name not in ("decode", "bit_length", "is_integer"):
            raise Exhausted(f"bytes made by '{name}'")
    elif isinstance(owner, str):
        _refuse_method_of_text(owner, name, args)


def refuse_operator(operator: str, left: Any, right: Any) -> None:
    if operator == "**" and isinstance(left, int) and isinstance(right, int):
        too_large = left.bit_length() * abs(right) > _MAX_BITS
        if too_large:
            raise Exhausted("a power that grows too large")
    if operator == "*":
        _refuse_repetition(left, right)
        _refuse_repetition(right, left)
    if operator == "%":
        refuse_format(left, right if isinstance(right, tuple) else (right,))


def refuse_filter(name: str, args: tuple[Any, ...]) -> None:
    """``args``: the filter's value first."""
    value = args[0] if args else None
    if name in _FILTERS_WITH_WIDTHS:
        _refuse_widths(args)
    if name in _FILTERS_OF_PIECES and isinstance(value, str):
        _refuse_pieces(len(value))
    if name == "format":
        refuse_format(value, args[1:])
    elif name == "replace" and len(args) > 2:
        _refuse_replacement(str(value), str(args[1]), str(args[2]))
    elif name == "indent" and len(args) > 1 and isinstance(args[1], str):
        _refuse_replacement(str(value), "\n", args[1])
    elif name == "sum" and any(isinstance(arg, list | tuple) for arg in args[1:]):
        raise Exhausted("a sum of lists")


def refuse_format(text: Any, values: Iterable[Any]) -> None:
    """``text`` with its ``%`` or ``{}`` filled from ``values``."""
    if not isinstance(text, str):
        return
    if _WIDE_FORMAT.search(text):
        raise Exhausted("a width that is too large")
    given = tuple(values)
    if "*" in text:  # a width among the values
        _refuse_widths(given)
    refuse_text((text.count("%") + text.count("{")) * weight(given))


def refuse_indent(indent: Any) -> None:
    """Of JSON, which writes it anew for each level of each value."""
    wide = indent > _MAX_INDENT if isinstance(indent, int) else len(str(indent or "")) > _MAX_INDENT
    if wide:
        raise Exhausted("an indent that is too large")


def _refuse_method_of_text(text: str, name: str, args: tuple[Any, ...]) -> None:
    if name == "translate":
        raise Exhausted("a text that is translated")
    if name in _METHODS_WITH_WIDTHS:
        _refuse_widths(args)
    if name == "expandtabs":
        refuse_text(text.count("\t") * max([8, *(arg for arg in args if isinstance(arg, int))]))
    elif name == "replace" and len(args) > 1 and isinstance(args[0], str) and isinstance(args[1], str):
        _refuse_replacement(text, args[0], args[1])
    elif name in _METHODS_OF_PIECES:
        separator = args[0] if args and isinstance(args[0], str) else ""
        _refuse_pieces(text.count(separator) if separator else len(text) // 2)


def _refuse_repetition(value: Any, times: Any) -> None:
    if not isinstance(times, int):
        return
    if isinstance(value, str | bytes | list | tuple) and len(value) * times > MAX_ITEMS:
        raise Exhausted("a value that grows too large")
    if isinstance(value, int) and value.bit_length() + times.bit_length() > _MAX_BITS:
        raise Exhausted("a number that grows too large")


def _refuse_replacement(text: str, old: str, new: str) -> None:
    refuse_text(text.count(old) * len(new))


def _refuse_pieces(count: int) -> None:
    if count > MAX_ITEMS:
        raise Exhausted("a list that grows too large")


def _refuse_widths(args: Iterable[Any]) -> None:
    """Numbers that say how wide a text should be; none that a prompt needs comes near."""
    for argument in args:
        if isinstance(argument, int) and abs(argument) > _MAX_WIDTH:
            raise Exhausted("a width that is too large")
