"""Bodies of /v1/embeddings in, requests out; a worker's vectors in, OpenAI's answer out."""

import base64
import json
import struct
from typing import Any

import msgspec
import pytest

from inference.gateway import parse
from inference.gateway.embeddings_api import body
from inference.protocol import Embedded
from registry.errors import InvalidRequest


def embedding(**fields: Any) -> parse.InferenceRequest:
    return parse.embedding(msgspec.json.encode({"model": "m", **fields}))


@pytest.mark.parametrize(
    ("input", "inputs"),
    [
        ("Hello", ("Hello",)),
        (["Hello", "world"], ("Hello", "world")),
        ([1, 2, 3], ((1, 2, 3),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        (["Hello", [1, 2]], ("Hello", (1, 2))),
        (["x"] * 2048, ("x",) * 2048),
    ],
    ids=["text", "texts", "tokens", "token arrays", "a mixture", "as many as OpenAI takes"],
)
def test_all_forms_of_input_are_read(input: Any, inputs: tuple[Any, ...]) -> None:
    request = embedding(input=input)
    assert (request.kind, request.inputs) == ("embedding", inputs)
    assert not request.base64 and request.dimensions is None and not request.stream


def test_the_options_are_read_and_others_are_named() -> None:
    request = embedding(input="x", dimensions=8, encoding_format="base64", user="me", priority=7, capabilities=["fast"])
    assert (request.dimensions, request.base64, request.priority) == (8, True, 7)
    assert request.ignored == ("user",) and request.capabilities == {"fast"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": 7}, "input"),
        ({"input": {"text": "x"}}, "input"),
        ({"input": ["x", ""]}, "input[1]"),
        ({"input": ["x", 7]}, "input[1]"),
        ({"input": [[1], []]}, "input[1]"),
        ({"input": [1, "x"]}, "input[1]"),
        ({"input": [1, True]}, "input[1]"),
        ({"input": [1, -1]}, "input[1]"),
        ({"input": [1, 2.5]}, "input[1]"),
        ({"input": [[1], [2**31]]}, "input[1][0]"),
        ({"input": [None]}, "input[0]"),
        ({"input": ["x"] * 2049}, "input"),
        ({"input": "x", "dimensions": 0}, "dimensions"),
        ({"input": "x", "dimensions": "8"}, "dimensions"),
        ({"input": "x", "encoding_format": "binary"}, "encoding_format"),
        ({"input": "x", "encoding_format": 1}, "encoding_format"),
        ({"input": "x", "model": 1}, "model"),
    ],
)
def test_what_is_wrong_is_refused_with_the_field_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        embedding(**fields)
    assert refused.value.param == param
    assert len(refused.value.message) > 20


VECTORS = ((0.6, -0.8, 0.0), (1.0, 0.0, 2.0**-20))


def answer(*, as_base64: bool) -> Any:
    packed = tuple(struct.pack("<3f", *vector) for vector in VECTORS)
    return json.loads(b"".join(body(Embedded(id=1, vectors=packed, prompt_tokens=9), 'a"b', base64=as_base64)))


def test_an_answer_has_openais_shape() -> None:
    made = answer(as_base64=False)
    assert (made["object"], made["model"]) == ("list", 'a"b')
    assert made["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    assert [(each["object"], each["index"]) for each in made["data"]] == [("embedding", 0), ("embedding", 1)]
    assert [each["embedding"] for each in made["data"]] == [pytest.approx(vector) for vector in VECTORS]


def test_base64_decodes_to_the_same_floats() -> None:
    numbers, encoded = answer(as_base64=False), answer(as_base64=True)
    for one, other in zip(numbers["data"], encoded["data"], strict=True):
        assert list(struct.unpack("<3f", base64.b64decode(other["embedding"]))) == one["embedding"]


def test_an_answer_comes_in_a_piece_for_each_vector() -> None:
    """So that the event loop can do something else between them."""
    vectors = (struct.pack("<3f", *VECTORS[0]),) * 2048
    assert len(list(body(Embedded(id=1, vectors=vectors, prompt_tokens=1), "m", base64=False))) == 2050
