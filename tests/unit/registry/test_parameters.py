"""llama.cpp's parameters: what may be set, and that the engine takes just that."""

import typing
from typing import Any, Literal

import msgspec
import pytest

from inference.protocol import EngineParameters
from registry.errors import InvalidRequest
from registry.parameters import FIELDS, Choice, Kind, Number, parameters_checked


def examples(kind: Kind) -> list[Any]:
    if isinstance(kind, Choice):
        return list(kind.words)
    if isinstance(kind, Number):
        return [int(kind.least), int(kind.most)] if kind.whole else [kind.least, kind.most]
    return [True, False]


def test_the_engine_knows_the_same_parameters() -> None:
    assert list(FIELDS) == list(EngineParameters.__struct_fields__)


@pytest.mark.parametrize("name", FIELDS)
def test_the_engine_takes_whatever_may_be_set(name: str) -> None:
    for value in examples(FIELDS[name]):
        taken = msgspec.convert(parameters_checked({name: value}), EngineParameters)
        assert getattr(taken, name) == value


@pytest.mark.parametrize("name", [name for name, kind in FIELDS.items() if isinstance(kind, Choice)])
def test_the_engine_takes_no_other_words(name: str) -> None:
    hints = typing.get_type_hints(EngineParameters)[name]
    (words,) = (typing.get_args(part) for part in typing.get_args(hints) if typing.get_origin(part) is Literal)
    kind = FIELDS[name]
    assert isinstance(kind, Choice) and kind.words == words


@pytest.mark.parametrize(
    ("values", "param", "told"),
    [
        ({"thread": 2}, "parameters.thread", "allowed: context_tokens, lanes"),
        ({"threads": 0}, "parameters.threads", "a whole number from 1 to 512"),
        ({"threads": True}, "parameters.threads", "a whole number"),
        ({"threads": 1.5}, "parameters.threads", "a whole number"),
        ({"threads": "2"}, "parameters.threads", "a whole number"),
        ({"kv_type": "q2_k"}, "parameters.kv_type", "q8_0"),
        ({"flash_attention": ["on"]}, "parameters.flash_attention", "on, off"),
        ({"unified": 1}, "parameters.unified", "true or false"),
        ({"rope_freq_base": float("nan")}, "parameters.rope_freq_base", "a number from 1 to"),
        ({"flash_attention": "off", "kv_type": "q8_0"}, "parameters.kv_type", "needs flash attention"),
        (["threads"], "parameters", "an object"),
    ],
)
def test_a_refusal_names_the_parameter_and_what_is_allowed(values: Any, param: str, told: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parameters_checked(values)
    assert refusal.value.param == param
    assert told in refusal.value.message


def test_null_is_not_set() -> None:
    assert parameters_checked({"threads": None, "unified": False}) == {"unified": False}
