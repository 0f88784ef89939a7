"""Arguments in Gemma's notation as a grammar: keys bare and sorted (so its templates show them), strings between
escape markers. What of a schema has no rule here (references, patterns, bounds of numbers) is any value."""

import json
from typing import Any

from inference.engine.schemas import Schema
from inference.engine.tools.forms import Unquoted
from inference.engine.tools.rules import Rules

_WORDS = {"boolean": '"true" | "false"', "null": '"null"', "integer": "/-?[0-9]{1,18}/"}
_NUMBER = r"/-?[0-9]{1,18}(\.[0-9]{1,18})?([eE][-+]?[0-9]{1,3})?/"


def add_object(rules: Rules, part: Unquoted) -> str:
    """The name of the rule of ``{key:value,…}``."""
    return _Unquoted(rules, part.escape).object(part.schema)


class _Unquoted:
    def __init__(self, rules: Rules, escape: str) -> None:
        self._rules = rules
        self._escape = rules.literal(escape)
        # A string can't hold a control token; a marker that is mere text is kept out by its first character.
        self._inside = r"/(.|\n)*/" if escape in rules.controls else f"/[^{escape[0]}]*/"
        self._names: dict[str, str] = {}

    def object(self, schema: Schema) -> str:
        properties = schema.get("properties")
        if not isinstance(properties, dict) or not properties:
            closed = isinstance(properties, dict) and schema.get("additionalProperties") is False
            return self._add("object", '"{" "}"') if closed else self._any_object()
        required = schema.get("required")
        needed = set(required) if isinstance(required, list) else set()
        # Rules from the last property to the first: what may follow when nothing was written yet, and after a value.
        nothing, after = self._add("end", '""'), self._add("end", '""')
        for key in sorted(properties, reverse=True):
            pair = f"{json.dumps(key + ':')} {self._value(properties[key])}"
            optional_nothing = "" if key in needed else f" | {nothing}"
            optional_after = "" if key in needed else f" | {after}"
            nothing = self._add("members", f"{pair} {after}{optional_nothing}")
            after = self._add("more", f'"," {pair} {after}{optional_after}')
        return self._add("object", f'"{{" {nothing} "}}"')

    def _value(self, schema: Any) -> str:
        if not isinstance(schema, dict):
            return self._any()
        values = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if isinstance(values, list) and values:
            return self._add("enum", " | ".join(self._literal(value) for value in values))
        kind = schema.get("type")
        if kind == "object":
            return self.object(schema)
        if kind == "array":
            item = self._value(schema.get("items"))
            few = "" if isinstance(schema.get("minItems"), int) and schema["minItems"] > 0 else "?"
            return self._add("array", f'"[" ({item} ("," {item})*){few} "]"')
        return self._scalar(kind) if isinstance(kind, str) else self._any()

    def _scalar(self, kind: str) -> str:
        if kind == "string":
            return self._shared("string", f"{self._escape} {self._shared('INSIDE', self._inside)} {self._escape}")
        if kind == "number":
            return self._shared("number", _NUMBER)
        return self._shared(kind, _WORDS[kind]) if kind in _WORDS else self._any()

    def _any(self) -> str:
        if "value" not in self._names:
            self._names["value"] = name = self._rules.fresh("value")
            scalars = " | ".join(self._scalar(kind) for kind in ("string", "number", "boolean", "null"))
            array = f'"[" ({name} ("," {name})*)? "]"'
            self._rules.add(name, f"{scalars} | {array} | {self._any_object()}")
        return self._names["value"]

    def _any_object(self) -> str:
        if "any_object" not in self._names:
            self._names["any_object"] = name = self._rules.fresh("any_object")
            pair = f'{self._shared("KEY", "/[A-Za-z0-9_.-]{1,64}/")} ":" {self._any()}'
            self._rules.add(name, f'"{{" ({pair} ("," {pair})*)? "}}"')
        return self._names["any_object"]

    def _literal(self, value: Any) -> str:
        if isinstance(value, str):
            return f"{self._escape} {self._rules.literal(value)} {self._escape}"
        return json.dumps(json.dumps(value))

    def _shared(self, name: str, body: str) -> str:
        if name not in self._names:
            self._names[name] = self._add(name, body)
        return self._names[name]

    def _add(self, prefix: str, body: str) -> str:
        return self._rules.add(self._rules.fresh(prefix), body)
