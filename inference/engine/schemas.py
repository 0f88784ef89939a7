"""JSON schemas of requests: bounded, checked, and as grammars.

JSON is generated in one form, ``{"a": 1, "b": [2, 3]}``, as Python's ``json.dumps`` writes it and as models saw it in
training: where a grammar allows any white space, small models fill the context with it.
"""

import json
from typing import Any

from inference.engine.constraints import GrammarRefused

MAX_SCHEMA_CHARACTERS = 64 * 1024
MAX_SUBSCHEMAS = 1_000
"""Compiling takes time that grows with the square of an object's properties: 65 ms for 1,000, 2.5 s for 5,000."""
MAX_DEPTH = 64
MAX_ENUM_VALUES = 10_000

_MAX_VISITS = 200_000
"""Parts looked at in search of a requirement without end (0.2 s); a schema that needs more is let through."""

Schema = dict[str, Any]


def any_object() -> Schema:
    """Any JSON object."""
    return _formed({"type": "object"}, strict=True)


def parsed(text: str, *, strict: bool) -> Schema:
    """A request's schema, ready for :func:`inference.engine.constraints.Grammars.compile`.

    Args:
        strict: keywords that can't be held to are refused; else they are left out of account.

    Raises:
        GrammarRefused: it is no schema, it is too large, or no finite JSON meets it.
    """
    if len(text) > MAX_SCHEMA_CHARACTERS:
        raise GrammarRefused(f"it has {len(text)} characters, and at most {MAX_SCHEMA_CHARACTERS} are taken")
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError):
        raise GrammarRefused("it is not valid JSON, or nested too deeply") from None
    if not isinstance(schema, dict):
        raise GrammarRefused("it must be an object")
    _measure(schema)
    if not _Finite(schema).possible():
        raise GrammarRefused("no JSON meets it: what it requires contains itself without end")
    return _formed(schema, strict=strict)


def grammar(schema: Schema) -> str:
    """The grammar of a whole answer that ``schema`` describes."""
    return json.dumps({"grammars": [{"json_schema": schema}]})


def _formed(schema: Schema, *, strict: bool) -> Schema:
    form = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False, "lenient": not strict}
    return schema | {"x-guidance": form}


def _measure(schema: Schema) -> None:
    """Refuse what is large or deep before anything recursive meets it."""
    objects = values = 0
    pending: list[tuple[Any, int]] = [(schema, 1)]
    while pending:
        node, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise GrammarRefused(f"it is nested more than {MAX_DEPTH} levels deep")
        if isinstance(node, dict):
            objects += 1
            pending += [(child, depth + 1) for child in node.values()]
        elif isinstance(node, list):
            values += len(node)
            pending += [(child, depth + 1) for child in node]
        if objects > MAX_SUBSCHEMAS:
            raise GrammarRefused(f"it has more than {MAX_SUBSCHEMAS} parts")
        if values > MAX_ENUM_VALUES:
            raise GrammarRefused(f"it lists more than {MAX_ENUM_VALUES} values")


class _Finite:
    """Whether any finite JSON can meet a schema that refers to itself, as far as required properties tell.

    The least fixed point: at first no reference is known to be possible, and each round finds those that need only
    others already found. What no round finds needs itself. Everything that is not understood counts as possible;
    llguidance has its own word to say about it.
    """

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._possible: set[str] = set()
        self._visits = 0

    def possible(self) -> bool:
        references = _references(self._root)
        grown = True
        while grown:
            found = {name for name in references - self._possible if self._can(self._target(name))}
            self._possible |= found
            grown = bool(found)
        return self._can(self._root)

    def _can(self, schema: Any) -> bool:
        if not isinstance(schema, dict):
            return schema is not False
        self._visits += 1
        if self._visits > _MAX_VISITS:
            return True
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference not in self._possible:
            return False
        if not all(self._can(part) for part in _listed(schema.get("allOf"))):
            return False
        for key in ("anyOf", "oneOf"):
            if (parts := _listed(schema.get(key))) and not any(self._can(part) for part in parts):
                return False
        kind = schema.get("type")
        if kind == "object":
            return self._can_object(schema)
        return self._can_array(schema) if kind == "array" else True

    def _can_object(self, schema: Schema) -> bool:
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            return True
        required = [name for name in _listed(schema.get("required")) if isinstance(name, str)]
        return all(self._can(properties.get(name)) for name in required)

    def _can_array(self, schema: Schema) -> bool:
        fewest = schema.get("minItems")
        if not isinstance(fewest, int) or fewest < 1:
            return True
        prefix = _listed(schema.get("prefixItems"))
        rest = fewest <= len(prefix) or self._can(schema.get("items"))
        return rest and all(self._can(item) for item in prefix[:fewest])

    def _target(self, reference: str) -> Any:
        """What a reference within the schema points at; whatever it points at elsewhere counts as possible."""
        if not reference.startswith("#"):
            return True
        node: Any = self._root
        for step in reference[1:].split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(node, dict) or key not in node:
                return True
            node = node[key]
        return node


def _references(root: Schema) -> set[str]:
    found: set[str] = set()
    pending: list[Any] = [root]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            if isinstance(reference := node.get("$ref"), str):
                found.add(reference)
            pending += node.values()
        elif isinstance(node, list):
            pending += node
    return found


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
