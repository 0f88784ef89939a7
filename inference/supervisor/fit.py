"""What a load takes of a node's memory, in bytes, before it is begun. Pure.

    weights    its files: they are memory-mapped, and computing reads all of them
    lanes      KV cells of the short sequences, made at the load
    long       KV cells of the long ones, made when the first comes
    computing  llama.cpp's buffers for a step in either: logits of a whole batch, activations and, without flash
               attention, a score for each token of the batch against each cell that it may see, in every head
    process    Python and what it has imported; libraries that all workers share are nobody's
    learned    what measuring the last worker that computed with these parameters adds to all this, or takes off

How many cells there are is the engine's choice, which :mod:`inference.cells` makes for both. What is too large as the
engine would have it may do with fewer lanes, then with a shorter context: :func:`options` has one step after the
other. What an operator has set is never made smaller, nor is the type of KV ever changed, which changes answers.

Layers on a GPU are counted as if they were in RAM, which their weights are read through.
"""

from collections.abc import Iterator

import msgspec
from msgspec.structs import replace

from inference.cells import BATCH_TOKENS, LONG_BATCH_TOKENS, Cells, cells
from inference.protocol import EngineParameters
from inference.supervisor.space import Space
from inference.supervisor.tunings import merged
from registry.gguf import NO_SHAPE, Shape
from registry.gguf.tables import TENSOR_TYPES

PROCESS_BYTES = 64 << 20
"""Anonymous memory of a worker beside its cells: 62–66 MiB with SmolLM2-135M, whatever the cells."""
LEAST_LANES = 2
"""One would leave nobody to prove the cache on."""
LEAST_CONTEXT_TOKENS = 2048

_LONG_SEQUENCES = 9
_CELL_PADDING = 256
"""llama.cpp makes cells in blocks of so many."""
_NUMBER_BYTES = 4
_WIDTHS_ALIVE = 8
"""Of the embedding: how many tensors of a token are alive at once, about."""
_EMBEDDING_CELLS = 2048
_MIB = 1 << 20

_MEMORY_FIELDS = (
    "context_tokens",
    "lanes",
    "lane_tokens",
    "batch_tokens",
    "flash_attention",
    "kv_type",
    "unified",
    "n_gpu_layers",
)


class Weight(msgspec.Struct, frozen=True, kw_only=True):
    """What a version's files say. Without a header that can be read, its weights are all that is known: the engine says
    what is wrong with it."""

    files_bytes: int
    context_tokens: int = 0
    """That it was trained for."""
    shape: Shape = NO_SHAPE
    embeds_only: bool = False


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """Anonymous memory of the last worker of a version, its cache's blocks left out."""

    under: EngineParameters
    """What it computed with."""
    ready_bytes: int
    """When it became ready: its lanes are there, and nothing was computed in them yet."""
    peak_bytes: int
    """The most that was seen since."""


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """The arithmetic, in bytes."""

    weights: int
    lanes: int
    long: int
    computing: int
    process: int = PROCESS_BYTES
    learned: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.lanes + self.long + self.computing + self.process + self.learned


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One way to load a version."""

    needs: Needs
    cells: Cells
    smaller: EngineParameters = EngineParameters()
    """What makes it smaller than the engine would choose."""
    less: str = ""
    """In words; empty: it is as the engine would choose."""

    @property
    def ram_bytes(self) -> int:
        return self.needs.total

    @property
    def space(self) -> Space:
        return Space(self.ram_bytes)


def options(
    weight: Weight, parameters: EngineParameters, *, explicit: EngineParameters, footprint: Footprint | None
) -> tuple[Option, ...]:
    """Ways to load a version, each smaller than the one before; the first is as the engine would choose.

    Args:
        parameters: what it computes with, an operator's and what was measured to be fast.
        explicit: the operator's alone: what is None there may be made smaller.
    """
    ways: list[Option] = []
    for smaller in _ever_smaller(weight, parameters, explicit):
        way = _option(weight, merged(smaller, parameters), smaller, footprint, of=ways[0] if ways else None)
        if not ways or way.ram_bytes < ways[-1].ram_bytes:
            ways.append(way)
    return tuple(ways)


def needs(weight: Weight, parameters: EngineParameters, footprint: Footprint | None = None) -> Needs:
    """What a load takes that computes with exactly these parameters."""
    plain = _reckoned(weight, parameters)
    if footprint is None or not alike(footprint.under, parameters):
        return plain
    # Nothing was computed and no long sequence came before it was ready: all that was there is lanes and process.
    measured = max(footprint.ready_bytes + plain.long + plain.computing, footprint.peak_bytes)
    return replace(plain, learned=measured - (plain.total - plain.weights))


def alike(one: EngineParameters, other: EngineParameters) -> bool:
    """Whether they lead to the same memory."""
    return all(getattr(one, name) == getattr(other, name) for name in _MEMORY_FIELDS)


def arithmetic(option: Option) -> str:
    """For operators and clients."""
    parts, chosen = option.needs, option.cells
    lines = [
        f"weights {_mb(parts.weights)}",
        f"{_lanes(chosen)} {_mb(parts.lanes)}" if parts.lanes else "",
        f"a context of {chosen.long_tokens:,} tokens {_mb(parts.long)}" if parts.long else "",
        f"computing {_mb(parts.computing)}" if parts.computing else "",
        f"process {_mb(parts.process)}",
        f"measured {_mb(parts.learned, sign='+')}" if parts.learned else "",
    ]
    return f"{_mb(option.ram_bytes)} MB ({', '.join(line for line in lines if line)})"


def _lanes(chosen: Cells) -> str:
    many = f"{chosen.lanes} lanes of " if chosen.lanes > 1 else "cells for "
    return f"{many}{chosen.lane_tokens:,} tokens"


def why_never(ways: tuple[Option, ...], *, ram_bytes: int, kept_bytes: int) -> str:
    """Why even the smallest of ``ways`` does not fit beside what is kept loaded."""
    beside = f", of which models that are kept loaded take {_mb(kept_bytes)} MB" if kept_bytes else ""
    least = "" if len(ways) == 1 else f", and at the least {arithmetic(ways[-1])}"
    return (
        f"it takes {arithmetic(ways[0])}{least}; this node has {_mb(ram_bytes)} MB (NOPENAI_NODE_RAM_MB){beside}. "
        "Serve a smaller quantization, set fewer lanes or a shorter context, or give the node more memory"
    )


def _ever_smaller(
    weight: Weight, parameters: EngineParameters, explicit: EngineParameters
) -> Iterator[EngineParameters]:
    """Fewer lanes first: whoever has fewer only waits longer. Then a shorter context, which refuses requests."""
    yield EngineParameters()
    if weight.embeds_only:
        return
    full = _cells(weight, parameters)
    lanes = full.lanes
    while explicit.lanes is None and lanes // 2 >= LEAST_LANES:
        lanes //= 2
        yield EngineParameters(lanes=lanes)
    fewer = EngineParameters(lanes=lanes) if lanes < full.lanes else EngineParameters()
    tokens = full.context_tokens
    while explicit.context_tokens is None and tokens // 2 >= LEAST_CONTEXT_TOKENS:
        tokens //= 2
        yield replace(fewer, context_tokens=tokens)


def _option(
    weight: Weight,
    parameters: EngineParameters,
    smaller: EngineParameters,
    footprint: Footprint | None,
    *,
    of: Option | None,
) -> Option:
    chosen = _cells(weight, parameters)
    less = [] if of is None else list(_less(chosen, of.cells))
    takes = needs(weight, parameters, footprint)
    if footprint is not None and not alike(footprint.under, parameters):
        takes = replace(takes, learned=_carried(weight, parameters, footprint))
    return Option(needs=takes, cells=chosen, smaller=smaller, less=" and ".join(less))


def _carried(weight: Weight, parameters: EngineParameters, footprint: Footprint) -> int:
    """What was missing in the arithmetic of a way that differs in its number of cells is missing in this one, too; what
    was too much there may have been cells."""
    under = replace(footprint.under, lanes=parameters.lanes, context_tokens=parameters.context_tokens)
    if not alike(under, parameters):
        return 0
    return max(0, needs(weight, footprint.under, footprint).learned)


def _less(chosen: Cells, full: Cells) -> Iterator[str]:
    if chosen.lanes < full.lanes:
        yield f"{chosen.lanes} lanes instead of {full.lanes}"
    if chosen.context_tokens < full.context_tokens:
        yield f"a context of {chosen.context_tokens:,} tokens instead of {full.context_tokens:,}"


def _reckoned(weight: Weight, parameters: EngineParameters) -> Needs:
    shape = weight.shape
    if not shape.layers:
        return Needs(weights=weight.files_bytes, lanes=0, long=0, computing=0)
    if weight.embeds_only:
        return _embedding(weight, parameters)
    chosen = _cells(weight, parameters)
    cell_bytes = _cell_bytes(shape, parameters)
    batch = parameters.batch_tokens or BATCH_TOKENS
    lane_cells = _padded(chosen.lane_tokens)
    seen = chosen.lanes * lane_cells if parameters.unified else lane_cells
    computing = _computing(shape, batch, 0 if _flash_attention(parameters) else seen)
    if chosen.long_tokens:
        cells_seen = 0 if _flash_attention(parameters) else _padded(chosen.long_tokens)
        computing += _computing(shape, min(batch, LONG_BATCH_TOKENS), cells_seen)
    state_bytes = shape.state_elements * _NUMBER_BYTES
    return Needs(
        weights=weight.files_bytes,
        lanes=chosen.lanes * (lane_cells * cell_bytes + state_bytes),
        long=_padded(chosen.long_tokens) * cell_bytes + (_LONG_SEQUENCES * state_bytes if chosen.long_tokens else 0),
        computing=computing,
    )


def _embedding(weight: Weight, parameters: EngineParameters) -> Needs:
    """Of the context for inputs of ordinary length; the engine checks what a longer one needs when it comes."""
    tokens = _cells(weight, parameters).lane_tokens
    batch = min(tokens, 2 * BATCH_TOKENS)
    return Needs(
        weights=weight.files_bytes,
        lanes=tokens * _cell_bytes(weight.shape, parameters),
        long=0,
        computing=_computing(weight.shape, batch, tokens),
    )


def _cells(weight: Weight, parameters: EngineParameters) -> Cells:
    if not weight.embeds_only:
        return cells(weight.context_tokens, parameters)
    tokens = min(weight.context_tokens or _EMBEDDING_CELLS, _EMBEDDING_CELLS)
    return Cells(lanes=1, lane_tokens=tokens, long_tokens=0)


def _computing(shape: Shape, batch: int, cells_seen: int) -> int:
    a_token = shape.vocabulary + shape.heads * cells_seen + _WIDTHS_ALIVE * shape.embedding + 2 * shape.feed_forward
    return batch * a_token * _NUMBER_BYTES


def _cell_bytes(shape: Shape, parameters: EngineParameters) -> int:
    kind = _KV_TYPES[parameters.kv_type or "f16"]
    return -(-(shape.key_elements + shape.value_elements) * kind.block_bytes // kind.block_elements)


def _flash_attention(parameters: EngineParameters) -> bool:
    """As :class:`inference.engine.llama.Model` decides; a GPU is llama.cpp's to judge, and may go without."""
    quantized = parameters.kv_type not in (None, "f32", "f16", "bf16")
    return quantized if parameters.flash_attention is None else parameters.flash_attention == "on"


def _padded(tokens: int) -> int:
    return -(-tokens // _CELL_PADDING) * _CELL_PADDING


def _mb(size: int, *, sign: str = "") -> str:
    return format(round(size / _MIB), f"{sign},")


_KV_TYPES = {kind.name.lower(): kind for kind in TENSOR_TYPES.values()}
