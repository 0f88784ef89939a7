"""llama.cpp's state of one sequence, cut into ranges of tokens and put together again.

``llama_state_seq_get_data`` writes, for a model whose KV cache holds a row for each token::

    u32 magic, u32 sequence
    for each cache (one, or two where some layers have a sliding window):
        u32 streams
        for each stream (one in the unified layout, one for each sequence in the split one):
            u32 cells, and only if there are any:
            for each cell:  i32 position, u32 1, u32 sequence
            u32 transposed, u32 layers
            for each layer (K):  i32 type, u64 row bytes, a row for each cell
            for each layer (V):  the same; or, transposed: i32 type, u32 element bytes, u32 rows,
                                 for each row an element for each cell
    for recurrent layers, which a model has alone or behind its one cache ("hybrid"):
        u32 1, i32 position of the last token, u32 0, then as many bytes whatever the position

Of layers with a sliding window only the last tokens have rows: a range that was cut lacks those of its older tokens,
and a beginning of a sequence can be joined only where the rows that its next token will look back on are all there
(:func:`usable`).

The form is internal to llama.cpp (this is version 0.3.36 of llama-cpp-python). Whatever does not parse to the last byte
is refused with :class:`UnknownForm`, and at load a round trip is proven on the model itself, so that another form can
cost the cache, never a wrong token.

What recurrent layers remember can't be cut: it is kept whole, as a *checkpoint* of exactly the tokens up to it.
"""

import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from inference.engine.cache.words import WORD_BYTES, Bytes, Reader, UnknownForm, Writer

__all__ = [
    "Bytes",
    "Cache",
    "Field",
    "Layout",
    "Memory",
    "Part",
    "Prefix",
    "State",
    "UnknownForm",
    "join",
    "parse",
    "usable",
]

Order = npt.NDArray[np.intp] | None
"""Where the cell of each position is; None: in order."""

Part = tuple[Bytes, int, int]
"""What :meth:`State.cut` gave, how many tokens it has, and how many of these, the first ones, are to be used."""

_NOTHING: Bytes = np.empty(0, np.uint8)
_CELL = np.dtype([("position", "<i4"), ("sequences", "<u4"), ("sequence", "<i4")])
_CHECKPOINT_HEAD = struct.Struct("<IiI")
_ROWS_HEAD = struct.Struct("<iQ")
_TRANSPOSED_HEAD = struct.Struct("<iII")


class Memory(Enum):
    """What a model has to remember tokens with, which its state does not say."""

    ROWS = "a row for each token"
    RECURRENT = "one state for all tokens"
    HYBRID = "some layers have rows, others a state"


@dataclass(frozen=True, slots=True)
class Prefix:
    """The beginning of a sequence, as it is put into cells."""

    tokens: int = 0
    parts: tuple[Part, ...] = ()
    checkpoint: Bytes | None = None
    """What recurrent layers remember of these tokens."""

    @classmethod
    def of(cls, parts: Sequence[Part]) -> "Prefix":
        return cls(sum(used for _, _, used in parts), tuple(parts))


@dataclass(frozen=True, slots=True)
class Field:
    """K or V of one layer: an array of shape (rows, cells, cell_bytes)."""

    head: bytes
    rows: int
    cell_bytes: int


@dataclass(frozen=True, slots=True)
class Cache:
    transposed: bool
    window: int
    """A token sees so many, itself included; 0: all before it."""
    fields: tuple[Field, ...]
    """K of all layers, then V of all layers."""

    @property
    def token_bytes(self) -> int:
        return sum(field.rows * field.cell_bytes for field in self.fields)

    def first(self, tokens: int) -> int:
        """The first of so many tokens whose rows the next one looks at: a window includes the token that looks."""
        return max(0, tokens - self.window + 1) if self.window else 0


@dataclass(frozen=True, slots=True)
class Layout:
    """What is the same in every state of one context."""

    magic: int
    caches: tuple[Cache, ...]
    checkpoint_bytes: int = 0
    """Of what recurrent layers remember of a sequence; 0: there are none."""

    def first(self, tokens: int) -> int:
        """The first of so many tokens whose rows are wanted in every cache."""
        return max((cache.first(tokens) for cache in self.caches), default=0)

    def lowest_position(self, tokens: int) -> int:
        """What llama.cpp says of so many tokens: a sliding window's oldest, and of recurrent layers the last."""
        return tokens - 1 if self.checkpoint_bytes else self.first(tokens)

    def blob_bytes(self, start: int, stop: int, total: int, streams: int) -> int:
        """Of a state that :func:`join` makes, at most."""
        size = 2 * WORD_BYTES + self.checkpoint_bytes
        for cache in self.caches:
            cells = max(0, stop - max(start, cache.first(total)))
            size += (1 + streams) * WORD_BYTES + cells * _CELL.itemsize + 2 * WORD_BYTES
            size += sum(len(field.head) for field in cache.fields) + cells * cache.token_bytes
        return size

    def block_bytes(self, tokens: int) -> int:
        """Bytes of KV that so many tokens have at most."""
        return max(1, tokens * sum(cache.token_bytes for cache in self.caches))

    def rows_held(self, payload_bytes: int, tokens: int) -> int:
        """How many of a part's tokens, its last ones, have rows in the caches with a window."""
        everywhere = sum(cache.token_bytes for cache in self.caches if not cache.window)
        windowed = sum(cache.token_bytes for cache in self.caches if cache.window)
        return (payload_bytes - tokens * everywhere) // windowed if windowed else tokens


@dataclass(frozen=True, slots=True)
class View:
    """One cache's rows of one sequence."""

    first: int
    """The position of the first token that has rows."""
    order: Order
    fields: tuple[Bytes, ...]
    """Of shape (rows, cells, cell_bytes) each."""


@dataclass(frozen=True, slots=True)
class State:
    """A parsed state: views into the bytes that llama.cpp wrote, valid as long as these are."""

    layout: Layout
    start: int
    """The position of its first token."""
    stop: int
    views: tuple[View, ...]
    checkpoint: Bytes
    """Of :attr:`checkpoint_tokens`, also where the rows are a range of them; empty without recurrent layers."""

    @property
    def checkpoint_tokens(self) -> int:
        return _checkpoint_tokens(self.checkpoint) if self.checkpoint.size else 0

    def cut(self, start: int, end: int) -> Bytes:
        """KV of the tokens from ``start`` up to ``end``, as bytes of their own."""
        parts = [part for view in self.views for part in _rows(view, max(start, view.first), max(end, view.first))]
        out = np.empty(sum(part.size for part in parts), np.uint8)
        at = 0
        for part in parts:
            out[at : at + part.size].reshape(part.shape)[...] = part
            at += part.size
        return out


def parse(blob: Bytes, window: int = 0, start: int = 0, memory: Memory = Memory.ROWS) -> State:
    """Take a state apart.

    Args:
        window: the model's sliding window, if some of its layers have one.
        start: the first position that must be in it; all up to the last one must be there, too.

    Raises:
        UnknownForm: it is not of the form above, or tokens are missing that should be there.
    """
    reader = Reader(blob)
    magic, _sequence = reader.word(), reader.word()
    caches: list[Cache] = []
    views: list[View] = []
    while _has_cache(reader, memory, len(caches)):
        streams_behind, cells = _the_stream(reader)
        first, order = _order(reader.take(cells * _CELL.itemsize).view(_CELL)["position"])
        transposed, layers = reader.word(), reader.word()
        if transposed > 1:
            raise UnknownForm("no flag where 'V is transposed' should be")
        fields = [_field(reader, cells, transposed=bool(transposed) and part >= layers) for part in range(2 * layers)]
        # Layers that see everything come first, in a cache of their own; those with a window follow.
        caches.append(Cache(bool(transposed), window if views else 0, tuple(field for field, _ in fields)))
        views.append(View(first, order, tuple(rows for _, rows in fields)))
        if any(reader.word() for _ in range(streams_behind)):
            raise UnknownForm("two streams hold cells of one sequence")
    checkpoint = reader.rest() if memory is not Memory.ROWS else _NOTHING
    ends = {view.first + (view.fields[0].shape[1] if view.fields else 0) for view in views}
    if not views:
        ends.add(_checkpoint_tokens(checkpoint))
    stop = max(ends, default=0)
    wanted = [max(start, cache.first(stop)) for cache in caches]
    if len(ends) != 1 or any(view.first > first for view, first in zip(views, wanted, strict=True)):
        raise UnknownForm("the caches hold different tokens")
    return State(Layout(magic, tuple(caches), checkpoint.size), start, stop, tuple(views), checkpoint)


def usable(layout: Layout, parts: Sequence[Part]) -> int:
    """Of how many leading tokens of the parts a state can be joined: without sliding windows, of all."""
    starts = list(itertools.accumulate((used for _, _, used in parts), initial=0))
    total, index = starts[-1], len(parts) - 1
    while index >= 0 and starts[index + 1] > layout.first(total):
        payload, held, _ = parts[index]
        without_rows = starts[index] + held - layout.rows_held(payload.nbytes, held)
        if without_rows > max(starts[index], layout.first(total)):
            # Whatever ends in this part or soon behind it needs rows that it does not have: end before it.
            total = starts[index]
        index -= 1
    return total


def join(
    layout: Layout,
    parts: Sequence[Part],
    *,
    slot: int,
    streams: int,
    start: int = 0,
    total: int | None = None,
    checkpoint: Bytes | None = None,
    buffer: Bytes | None = None,
) -> Bytes:
    """A state to be set, of the tokens of all parts in order.

    Args:
        slot: the sequence that it is for.
        streams: how many the context has: 1 in the unified layout, else one for each sequence.
        start: the position of the first token.
        total: how many tokens the sequence will have when all of it is set, which must be :func:`usable`; None: these.
        checkpoint: what recurrent layers remember of the whole sequence; of a range it is the same.
        buffer: memory to build it in, if it is large enough.
    """
    stop = start + sum(used for _, _, used in parts)
    total = stop if total is None else total
    size = layout.blob_bytes(start, stop, total, streams)
    out = buffer[:size] if buffer is not None and buffer.size >= size else np.empty(size, np.uint8)
    stream = slot if streams > 1 else 0
    writer = Writer(out)
    writer.words(layout.magic, slot)
    offsets = [0] * len(parts)
    for cache in layout.caches:
        first = max(start, cache.first(total))
        cells = max(0, stop - first)
        writer.words(streams, *[0] * stream, cells)
        if cells:
            writer.bytes(_cells(first, stop, slot))
            writer.words(cache.transposed, len(cache.fields) // 2)
        _write_fields(writer, cache, cells, parts, list(_spans(layout, cache, parts, start, first)), offsets)
        writer.words(*[0] * (streams - 1 - stream))
    if checkpoint is not None:
        writer.bytes(checkpoint)
    return out[: writer.written]


def _write_fields(
    writer: Writer,
    cache: Cache,
    cells: int,
    parts: Sequence[Part],
    spans: Sequence[tuple[int, int, int, int]],
    offsets: list[int],
) -> None:
    """``offsets``: where in each part its next rows begin, which is moved behind those of this cache."""
    for field in cache.fields:
        if cells:
            writer.bytes(np.frombuffer(field.head, np.uint8))
        region = writer.room(field.rows * cells * field.cell_bytes).reshape(field.rows, cells, field.cell_bytes)
        for index, (rows, skipped, at, count) in enumerate(spans):
            length = field.rows * rows * field.cell_bytes
            payload = parts[index][0][offsets[index] : offsets[index] + length]
            offsets[index] += length
            if count:
                kept = payload.reshape(field.rows, rows, field.cell_bytes)[:, skipped : skipped + count]
                region[:, at : at + count] = kept


def _rows(view: View, start: int, end: int) -> Iterator[Bytes]:
    """Each field's rows of the tokens from ``start`` up to ``end``."""
    wanted = slice(start - view.first, end - view.first)
    for field in view.fields:
        yield field[:, wanted] if view.order is None else field[:, view.order[wanted]]


def _spans(
    layout: Layout, cache: Cache, parts: Sequence[Part], start: int, first: int
) -> Iterator[tuple[int, int, int, int]]:
    """For each part, the first of which begins at ``start``: how many of its tokens have rows in this cache, how many
    of those rows to skip, and where in the state, which begins at ``first``, how many of them go."""
    for payload, held, used in parts:
        rows = layout.rows_held(payload.nbytes, held) if cache.window else held
        begin = max(start + held - rows, first)
        count = max(0, start + used - begin)
        yield rows, begin - (start + held - rows) if count else 0, begin - first, count
        start += used


def _the_stream(reader: Reader) -> tuple[int, int]:
    """How many streams come after the one that holds the sequence's cells, and how many cells that one has."""
    streams = reader.word()
    for stream in range(streams):
        if cells := reader.word():
            return streams - 1 - stream, cells
    raise UnknownForm("no stream holds any cells")


def _has_cache(reader: Reader, memory: Memory, before: int) -> bool:
    """Whether a cache comes next. Recurrent layers stand behind one cache, or alone."""
    return not reader.at_end if memory is Memory.ROWS else memory is Memory.HYBRID and not before


def _checkpoint_tokens(checkpoint: Bytes) -> int:
    if checkpoint.size <= _CHECKPOINT_HEAD.size:
        raise UnknownForm("there is no state of recurrent layers")
    cells, position, sequences = _CHECKPOINT_HEAD.unpack(checkpoint[: _CHECKPOINT_HEAD.size].tobytes())
    if cells != 1 or sequences or position < 0:
        raise UnknownForm("recurrent layers hold something else than one state")
    return int(position) + 1


def _field(reader: Reader, cells: int, *, transposed: bool) -> tuple[Field, Bytes]:
    head = reader.take((_TRANSPOSED_HEAD if transposed else _ROWS_HEAD).size).tobytes()
    if transposed:
        _type, cell_bytes, rows = _TRANSPOSED_HEAD.unpack(head)
    else:
        (_type, cell_bytes), rows = _ROWS_HEAD.unpack(head), 1
    view = reader.take(rows * cells * cell_bytes).reshape(rows, cells, cell_bytes)
    return Field(head, rows, cell_bytes), view


def _order(positions: npt.NDArray[np.int32]) -> tuple[int, Order]:
    """The first position, and where the cell of each is."""
    first = int(positions.min())
    expected = np.arange(first, first + positions.size)
    if np.array_equal(positions, expected):
        return first, None
    order = np.argsort(positions)
    if not np.array_equal(positions[order], expected):
        raise UnknownForm("there are gaps between the positions")
    return first, order


def _cells(first: int, end: int, slot: int) -> Bytes:
    cells = np.zeros(end - first, _CELL)
    cells["position"] = np.arange(first, end)
    cells["sequences"] = 1
    cells["sequence"] = slot
    return cells.view(np.uint8)
