"""Bodies for the parser, and its refusals."""

import json
from typing import Any

import pytest

from inference.gateway import parse
from registry.errors import InvalidRequest

HELLO = [{"role": "user", "content": "Hello!"}]


def chat(**fields: Any) -> parse.InferenceRequest:
    return parse.chat(json.dumps({"messages": HELLO} | fields).encode())


def completion(**fields: Any) -> parse.InferenceRequest:
    return parse.completion(json.dumps({"prompt": "Once"} | fields).encode())


def fault(make: Any, **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        make(**fields)
    assert caught.value.status == 400
    assert caught.value.type == "invalid_request_error"
    return caught.value
