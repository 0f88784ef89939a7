"""llama.cpp's parameters of a version: which there are, and what each may be. Pure.

What they do is told where the engine takes them, at :class:`inference.protocol.EngineParameters`; a test sees that both
know the same. A parameter that is not set is chosen by the engine, or by what was measured on the machine.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from registry.errors import InvalidRequest

Value = bool | int | float | str
Parameters = dict[str, Value]


class Number(msgspec.Struct, frozen=True, kw_only=True):
    least: float
    most: float
    whole: bool = True

    @property
    def allowed(self) -> str:
        return f"a {'whole ' if self.whole else ''}number from {self.least:.7g} to {self.most:.10g}"

    def allows(self, value: object) -> bool:
        of_kind = isinstance(value, int if self.whole else int | float) and not isinstance(value, bool)
        return of_kind and self.least <= value <= self.most  # type: ignore[operator] # it is a number


class Choice(msgspec.Struct, frozen=True):
    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return f"one of {', '.join(self.words)}"

    def allows(self, value: object) -> bool:
        return value in self.words


class Switch(msgspec.Struct, frozen=True):
    @property
    def allowed(self) -> str:
        return "true or false"

    def allows(self, value: object) -> bool:
        return isinstance(value, bool)


Kind = Number | Choice | Switch

FIELDS: Mapping[str, Kind] = {
    "context_tokens": Number(least=64, most=2**24),
    "lanes": Number(least=1, most=64),
    "lane_tokens": Number(least=64, most=2**20),
    "threads": Number(least=1, most=512),
    # Beside all lanes there is room for a block of a prompt.
    "batch_tokens": Number(least=128, most=8192),
    "prefill_beside_decode": Number(least=64, most=8192),
    "flash_attention": Choice(("on", "off")),
    "kv_type": Choice(("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")),
    "unified": Switch(),
    "n_gpu_layers": Number(least=-1, most=10_000),
    "rope_freq_base": Number(least=1, most=1e12, whole=False),
    "rope_freq_scale": Number(least=1e-6, most=1e6, whole=False),
    "prompt_lookup": Switch(),
    "draft_cost": Number(least=0.001, most=1, whole=False),
}
_NOT_QUANTIZED = ("f32", "f16", "bf16")


def parameters_checked(values: Any) -> Parameters:
    """The parameters that are set; null is “not set”.

    Raises:
        InvalidRequest: naming the first that can't be, and what is allowed.
    """
    if not isinstance(values, Mapping):
        raise InvalidRequest("'parameters' must be an object.", param="parameters")
    chosen = {name: value for name, value in values.items() if value is not None}
    for name, value in chosen.items():
        kind = FIELDS.get(name)
        if kind is None:
            raise _refusal(name, f"is not known; allowed: {', '.join(FIELDS)}")
        if not kind.allows(value):
            raise _refusal(name, f"must be {kind.allowed}")
    if chosen.get("flash_attention") == "off" and chosen.get("kv_type", "f16") not in _NOT_QUANTIZED:
        allowed = f"with flash_attention off it must be one of {', '.join(_NOT_QUANTIZED)}"
        raise _refusal("kv_type", f"is quantized, which needs flash attention: {allowed}")
    return chosen


def _refusal(name: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"'parameters.{name}' {why}.", param=f"parameters.{name}")
