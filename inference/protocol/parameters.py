"""What is loaded, with which of llama.cpp's parameters, and what a worker measured of them on its machine."""

from typing import Literal

import msgspec


class EngineParameters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """llama.cpp's parameters as its users know them. None: what was measured on this machine, else the engine's own.

    What may be set to what, :mod:`registry.parameters` decides.
    """

    context_tokens: int | None = None
    """Longest prompt + completion of one request."""
    lanes: int | None = None
    """Short sequences that are decoded together."""
    lane_tokens: int | None = None
    """What a short sequence may grow to; longer ones share the long context."""
    threads: int | None = None
    batch_tokens: int | None = None
    """Most tokens of one step."""
    prefill_beside_decode: int | None = None
    """Most prompt tokens of a step in which others decode."""
    flash_attention: Literal["on", "off"] | None = None
    kv_type: Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"] | None = None
    """Of K and V alike."""
    unified: bool | None = None
    """Lanes share one space of cells instead of having one each."""
    n_gpu_layers: int | None = None
    """−1: all."""
    rope_freq_base: float | None = None
    rope_freq_scale: float | None = None
    prompt_lookup: bool | None = None
    """Guess tokens from what stands in the prompt and the answer already, and compute them together where that is
    faster. True unless said otherwise; recurrent models, which can't take a guess back, never do."""
    draft_cost: float | None = None
    """What a guessed token adds to the time of a step of one sequence, as a part of it. 1: guesses never pay."""


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All that a node needs to load a version, so that a load needs no database."""

    version_pk: int
    model: str
    version: str
    files: tuple[str, ...]
    parameters: EngineParameters = EngineParameters()
    """What an operator has set."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """How fast one way to compute was, in seconds: the least of some tries."""

    parameters: EngineParameters
    """What was not as it is by itself."""
    decode_seconds: float
    """A step in which some sequences grow by a token each."""
    mixed_seconds: float
    """The same with a chunk of a prompt, ``prefill_beside_decode`` long."""


class Tuned(msgspec.Struct, frozen=True, kw_only=True, tag="tuned"):
    """What a worker found to be fastest on this machine, for its next load."""

    parameters: EngineParameters
    """Only what won against the engine's own choice, and what a guess costs."""
    measured: tuple[Measured, ...]
    """In the order in which they were tried, the engine's own choice first."""
