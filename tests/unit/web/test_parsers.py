"""JSON as we accept it."""

import json

import pytest
from rest_framework.exceptions import ParseError

from nopenai_site.parsers import loads


@pytest.mark.parametrize(
    "body", [b"{}", b'{"a": [1, 2.5, null, true, "x"]}', b"[]", rb'"\ud83d\ude00"', '{"ключ": "ش"}'.encode()]
)
def test_json_is_read(body: bytes) -> None:
    assert loads(body) == json.loads(body)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"a": 1, "a": 2}', '"a" occurs more than once'),
        (b'{"x": {"b": 1, "c": 2, "b": 3}}', '"b" occurs more than once'),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"a": }', "line 1 column 7"),
        (b'{"a": 1} x', "Extra data"),
        (b"\xff\xfe", "UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}', "BOM"),
        (b"[" * 200_000, "nested too deeply"),
        (b"", "line 1"),
        (rb'{"a": "\ud800"}', "half a character"),
        (rb'{"\udfff": 1}', "half a character"),
    ],
)
def test_what_is_not_plain_json_is_refused_in_words(body: bytes, told: str) -> None:
    with pytest.raises(ParseError) as refusal:
        loads(body)
    assert told in str(refusal.value.detail)
