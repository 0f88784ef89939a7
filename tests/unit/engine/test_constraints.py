"""Grammars: what they allow, and that none of them can cost more than its share."""

import json
import time
from typing import Any

import numpy as np
import pytest

from inference.engine.constraints import Constraint, GrammarRefused, Grammars, fork
from inference.engine.sampling import Sampler
from inference.engine.schemas import any_object, grammar, parsed
from inference.protocol import Sampling

END = 256
OTHER_END = 257
CONTROL = 258


class Bytes:
    """A vocabulary of all bytes, two end tokens and a control token."""

    vocabulary_size = 259

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    def is_end(self, token: int) -> bool:
        return token in (END, OTHER_END)

    def tokenize(self, text: str, *, add_special: bool) -> list[int]:
        return list(text.encode())


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(Bytes())


def of_schema(schema: dict[str, Any], *, strict: bool = True) -> str:
    return grammar(parsed(json.dumps(schema), strict=strict))


def allowed(constraint: Constraint) -> set[int]:
    return set(np.flatnonzero(np.isfinite(constraint.allow(np.zeros(Bytes.vocabulary_size, np.float32)))).tolist())


def follow(constraint: Constraint, text: str) -> str:
    """As much of ``text`` as the grammar allows."""
    taken = bytearray()
    for byte in text.encode():
        if byte not in allowed(constraint):
            break
        constraint.accept(byte)
        taken.append(byte)
    return taken.decode("utf-8", "replace")


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def test_what_the_schema_describes_is_allowed_and_then_the_end(grammars: Grammars) -> None:
    constraint = grammars.compile(of_schema(PERSON))
    text = '{"name": "Ünal \\" 🙂", "age": 42}'
    assert follow(constraint, text) == text
    assert constraint.complete and allowed(constraint) == {END, OTHER_END}


@pytest.mark.parametrize("text", ["hello", '{"age"', '{"name": 7', '{"name": "x", "age": 151', '{"name": "x"}', "{\n"])
def test_what_it_does_not_describe_is_not(grammars: Grammars, text: str) -> None:
    assert follow(grammars.compile(of_schema(PERSON)), text) != text


def test_the_end_is_allowed_only_where_the_grammar_may_end(grammars: Grammars) -> None:
    constraint = grammars.compile(of_schema(PERSON))
    for byte in b'{"name": "x", "age": 4':
        assert not allowed(constraint) & {END, OTHER_END, CONTROL}
        constraint.accept(byte)


def test_half_a_character_can_not_be_followed_by_another(grammars: Grammars) -> None:
    constraint = grammars.compile(of_schema(PERSON))
    follow(constraint, '{"name": "')
    first, second = "é".encode()
    constraint.accept(first)
    assert second in allowed(constraint) and not allowed(constraint) & {first, ord('"'), ord("a")}


def test_any_object_is_an_object(grammars: Grammars) -> None:
    text = '{"a": [1, 2.5e3, null, {"b": {}}], "": "x"}'
    assert follow(grammars.compile(grammar(any_object())), text) == text
    assert follow(grammars.compile(grammar(any_object())), "[1]") == ""


def test_choices_go_their_own_ways(grammars: Grammars) -> None:
    first = grammars.compile(of_schema({"enum": ["left", "right"]}))
    follow(first, '"')
    second = fork(first)
    assert follow(first, 'left"') == 'left"' and follow(second, 'right"') == 'right"'
    assert follow(grammars.compile(of_schema({"enum": ["left", "right"]})), '"right"') == '"right"'


def test_a_greedy_sampler_keeps_to_the_grammar_whatever_the_model_wants(grammars: Grammars) -> None:
    logits = np.random.default_rng(3).normal(size=Bytes.vocabulary_size).astype(np.float32)
    logits[ord("x")] = 99
    sampler = Sampler(Sampling(temperature=0.0), [], constraint=grammars.compile(of_schema({"enum": ["yes", "no"]})))
    chosen: list[int] = []
    while not sampler.complete:
        chosen.append(sampler.choose(logits))
    assert bytes(chosen).decode() in ('"yes"', '"no"')


@pytest.mark.parametrize("seed", range(20))
def test_drawn_tokens_keep_to_the_grammar_too(grammars: Grammars, seed: int) -> None:
    settings = Sampling(temperature=2.0, top_k=0, top_p=1.0, min_p=0.0, seed=seed, repetition_penalty=1.3)
    sampler = Sampler(settings, [1, 2], constraint=grammars.compile(of_schema({"type": "integer", "maximum": 999})))
    logits = np.random.default_rng(seed).normal(size=Bytes.vocabulary_size).astype(np.float32)
    chosen: list[int] = []
    while not sampler.complete and (token := sampler.choose(logits)) not in (END, OTHER_END):
        chosen.append(token)
        if len(chosen) > 30:
            break
    assert set(bytes(chosen)) <= set(b"-0123456789")


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "strnig"}, "Invalid type"),
        ({"enum": []}, "anyOf is empty"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum"),
        ({"allOf": [{"type": "string", "pattern": "^a$"}, {"type": "string", "pattern": "^b$"}]}, "Unsatisfiable"),
        ({"type": "string", "pattern": r"^(a)\1$"}, "regex"),
        ({"type": "string", "pattern": "(a"}, "unclosed group"),
        ({"$ref": "http://example.com/schema"}, "http://example.com/schema"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "without end"),
        (
            {
                "$ref": "#/$defs/node",
                "$defs": {
                    "node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["next"]}
                },
            },
            "without end",
        ),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "without end"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    ],
)
def test_a_grammar_that_can_not_be_met_is_refused_with_the_reason(
    grammars: Grammars, schema: dict[str, Any], told: str
) -> None:
    with pytest.raises(GrammarRefused, match=told):
        grammars.compile(of_schema(schema))


def test_keywords_that_can_not_be_held_to_are_left_out_where_the_schema_is_not_strict(grammars: Grammars) -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    assert follow(grammars.compile(of_schema(schema, strict=False)), "[1, 1]") == "[1, 1]"


def test_a_tree_that_may_end_is_no_tree_without_end(grammars: Grammars) -> None:
    tree = {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
                "required": ["children"],
                "additionalProperties": False,
            }
        },
    }
    text = '{"children": [{"children": []}]}'
    assert follow(grammars.compile(of_schema(tree)), text) == text


def test_the_schema_can_not_bring_options_of_its_own(grammars: Grammars) -> None:
    schema = PERSON | {"x-guidance": {"whitespace_flexible": True, "lenient": True}}
    assert follow(grammars.compile(of_schema(schema)), "{ ") == "{"


def _deep(levels: int) -> str:
    return '{"type": "array", "items": ' * levels + "{}" + "}" * levels


def _doubling(levels: int, keyword: str) -> dict[str, Any]:
    definitions: dict[str, Any] = {"x0": {"type": "object", "properties": {"z": {"type": "string"}}}}
    for level in range(1, levels):
        reference = {"$ref": f"#/$defs/x{level - 1}"}
        definitions[f"x{level}"] = {keyword: [reference, reference]}
    return {"$ref": f"#/$defs/x{levels - 1}", "$defs": definitions}


def _ring(size: int) -> dict[str, Any]:
    definitions = {
        f"x{i}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/x{(i + 1) % size}"}}, "required": ["a"]}
        for i in range(size)
    }
    return {"$ref": "#/$defs/x0", "$defs": definitions}


BOMBS: dict[str, Any] = {
    "depth 100": _deep(100),
    "depth 10,000": _deep(5_000),
    "a huge enum": {"enum": [f"value {number}" for number in range(20_000)]},
    "many properties": {"type": "object", "properties": {f"p{number}": {} for number in range(5_000)}},
    "as many properties as are taken": {"type": "object", "properties": {f"p{number}": {} for number in range(950)}},
    "doubling allOf": _doubling(60, "allOf"),
    "doubling anyOf": _doubling(60, "anyOf"),
    "every combination": {
        "type": "object",
        "allOf": [{"anyOf": [{"properties": {f"{side}{i}": {}}} for side in "ab"]} for i in range(40)],
    },
    "a ring of requirements": _ring(150),
    "catastrophic pattern": {"type": "string", "pattern": "^(a+)+$"},
    "exponential automaton": {"type": "string", "pattern": "^(a|b)*a(a|b){60}$"},
    "nested counts": {"type": "string", "pattern": "^((((a{1,100}){1,100}){1,100}){1,100})$"},
    "a huge count": {"type": "string", "pattern": "^(ab?){1000000}$"},
    "a huge length": {"type": "string", "minLength": 10**9},
    "many items": {"type": "array", "minItems": 10**9, "items": {"type": "array", "minItems": 10**9}},
    "a large divisor": {"type": "integer", "multipleOf": 999_999_937},
    "overlapping patterns": {
        "type": "object",
        "patternProperties": {f"^.{{0,{number}}}x.*y{{{number}}}$": {} for number in range(1, 60)},
    },
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_ends_in_an_error_or_in_a_grammar_within_a_second(grammars: Grammars, bomb: Any) -> None:
    began = time.monotonic()
    try:
        constraint = grammars.compile(grammar(parsed(bomb if isinstance(bomb, str) else json.dumps(bomb), strict=True)))
    except GrammarRefused as refusal:
        assert 10 < len(str(refusal)) <= 300
    else:
        sampler = Sampler(Sampling(temperature=2.0, seed=1), [], constraint=constraint)
        logits = np.random.default_rng(1).normal(size=Bytes.vocabulary_size).astype(np.float32)
        for _ in range(100):
            if sampler.complete or sampler.fault or sampler.choose(logits) in (END, OTHER_END):
                break
    assert time.monotonic() - began < 3  # about 0.3 s at most, on a machine that does nothing else
