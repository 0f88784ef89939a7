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

The form is internal to llama.cpp (this is version 0.3.36 of llama-cpp-python). Whatever does not parse to the last byte
is refused with :class:`UnknownForm`, and at load a round trip is proven on the model itself, so that another form can
cost the cache, never a wrong token. Recurrent models have no rows to cut and are among the refused.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Order = npt.NDArray[np.intp] | None
"""Where the cell of each position is; None: in order."""

_WORD_BYTES = 4
_CELL = np.dtype([("position", "<i4"), ("sequences", "<u4"), ("sequence", "<i4")])
_ROWS_HEAD = struct.Struct("<iQ")
_TRANSPOSED_HEAD = struct.Struct("<iII")


class UnknownForm(Exception):
    """The state does not have the form that we know; ``str()`` says where."""


@dataclass(frozen=True, slots=True)
class Field:
    """K or V of one layer: an array of shape (rows, cells, cell_bytes)."""

    head: bytes
    rows: int
    cell_bytes: int


@dataclass(frozen=True, slots=True)
class Cache:
    transposed: bool
    fields: tuple[Field, ...]
    """K of all layers, then V of all layers."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What is the same in every state of one context."""

    magic: int
    caches: tuple[Cache, ...]

    @property
    def token_bytes(self) -> int:
        """Bytes of KV that one token has."""
        return sum(field.rows * field.cell_bytes for cache in self.caches for field in cache.fields)

    def blob_bytes(self, cells: int, streams: int) -> int:
        heads = 0
        for cache in self.caches:
            heads += (1 + streams) * _WORD_BYTES + cells * _CELL.itemsize + 2 * _WORD_BYTES
            heads += sum(len(field.head) for field in cache.fields)
        return 2 * _WORD_BYTES + heads + cells * self.token_bytes


@dataclass(frozen=True, slots=True)
class State:
    """A parsed state: views into the bytes that llama.cpp wrote, valid as long as these are."""

    layout: Layout
    tokens: int
    fields: tuple[Bytes, ...]
    """Of shape (rows, cells, cell_bytes) each."""
    order: Order

    def cut(self, start: int, end: int) -> Bytes:
        """KV of the tokens from ``start`` up to ``end``, as bytes of their own."""
        out = np.empty((end - start) * self.layout.token_bytes, np.uint8)
        at = 0
        for field in self.fields:
            part = field[:, start:end] if self.order is None else field[:, self.order[start:end]]
            out[at : at + part.size].reshape(part.shape)[...] = part
            at += part.size
        return out


def parse(blob: Bytes) -> State:
    """Take a state apart.

    Raises:
        UnknownForm: it is not of the form above, or its positions are not 0, 1, 2, … n − 1.
    """
    reader = _Reader(blob)
    magic, _sequence = reader.word(), reader.word()
    caches: list[Cache] = []
    views: list[Bytes] = []
    orders: list[Order] = []
    while not reader.at_end:
        streams_behind, cells = _the_stream(reader)
        positions = reader.take(cells * _CELL.itemsize).view(_CELL)["position"]
        orders.append(_order(positions))
        transposed, layers = reader.word(), reader.word()
        if transposed > 1:
            raise UnknownForm("no flag where 'V is transposed' should be")
        fields = []
        for part in range(2 * layers):
            field, view = reader.field(cells, transposed=bool(transposed) and part >= layers)
            fields.append(field)
            views.append(view)
        caches.append(Cache(bool(transposed), tuple(fields)))
        if any(reader.word() for _ in range(streams_behind)):
            raise UnknownForm("two streams hold cells of one sequence")
    tokens = views[0].shape[1] if views else 0
    if not tokens or any(view.shape[1] != tokens for view in views) or not _all_same(orders):
        raise UnknownForm("the caches hold different tokens")
    return State(Layout(magic, tuple(caches)), tokens, tuple(views), orders[0])


def join(
    layout: Layout, parts: Sequence[tuple[Bytes, int, int]], *, slot: int, streams: int, buffer: Bytes | None = None
) -> Bytes:
    """A state to be set, of the tokens of all parts in order.

    Args:
        parts: what :meth:`State.cut` gave, how many tokens it has, and how many of these are to be used.
        slot: the sequence that it is for.
        streams: how many the context has: 1 in the unified layout, else one for each sequence.
        buffer: memory to build it in, if it is large enough.
    """
    cells = sum(used for _, _, used in parts)
    size = layout.blob_bytes(cells, streams)
    out = buffer[:size] if buffer is not None and buffer.size >= size else np.empty(size, np.uint8)
    stream = slot if streams > 1 else 0
    writer = _Writer(out)
    writer.words(layout.magic, slot)
    offsets = [0] * len(parts)
    for cache in layout.caches:
        writer.words(streams, *[0] * stream, cells)
        writer.bytes(_cells(cells, slot))
        writer.words(cache.transposed, len(cache.fields) // 2)
        for field in cache.fields:
            writer.bytes(np.frombuffer(field.head, np.uint8))
            region = writer.room(field.rows * cells * field.cell_bytes).reshape(field.rows, cells, field.cell_bytes)
            at = 0
            for index, (payload, held, used) in enumerate(parts):
                length = field.rows * held * field.cell_bytes
                part = payload[offsets[index] : offsets[index] + length].reshape(field.rows, held, field.cell_bytes)
                region[:, at : at + used] = part[:, :used]
                offsets[index] += length
                at += used
        writer.words(*[0] * (streams - 1 - stream))
    return out


def _the_stream(reader: "_Reader") -> tuple[int, int]:
    """How many streams come after the one that holds the sequence's cells, and how many cells that one has."""
    streams = reader.word()
    for stream in range(streams):
        if cells := reader.word():
            return streams - 1 - stream, cells
    raise UnknownForm("no stream holds any cells")


def _order(positions: npt.NDArray[np.int32]) -> Order:
    expected = np.arange(positions.size)
    if np.array_equal(positions, expected):
        return None
    order = np.argsort(positions)
    if not np.array_equal(positions[order], expected):
        raise UnknownForm("the positions are not 0, 1, 2, …")
    return order


def _all_same(orders: Sequence[Order]) -> bool:
    first = orders[0]
    return all(other is first if first is None or other is None else np.array_equal(first, other) for other in orders)


def _cells(count: int, slot: int) -> Bytes:
    cells = np.zeros(count, _CELL)
    cells["position"] = np.arange(count)
    cells["sequences"] = 1
    cells["sequence"] = slot
    return cells.view(np.uint8)


class _Reader:
    def __init__(self, blob: Bytes) -> None:
        self._blob = blob
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at == self._blob.size

    def take(self, count: int) -> Bytes:
        end = self._at + count
        if end > self._blob.size:
            raise UnknownForm(f"it ends at {self._blob.size} bytes where {end} should be")
        taken = self._blob[self._at : end]
        self._at = end
        return taken

    def word(self) -> int:
        return int(self.take(_WORD_BYTES).view("<u4")[0])

    def field(self, cells: int, *, transposed: bool) -> tuple[Field, Bytes]:
        head = self.take((_TRANSPOSED_HEAD if transposed else _ROWS_HEAD).size).tobytes()
        if transposed:
            _type, cell_bytes, rows = _TRANSPOSED_HEAD.unpack(head)
        else:
            (_type, cell_bytes), rows = _ROWS_HEAD.unpack(head), 1
        view = self.take(rows * cells * cell_bytes).reshape(rows, cells, cell_bytes)
        return Field(head, rows, cell_bytes), view


class _Writer:
    def __init__(self, out: Bytes) -> None:
        self._out = out
        self._at = 0

    def room(self, count: int) -> Bytes:
        taken = self._out[self._at : self._at + count]
        self._at += count
        return taken

    def bytes(self, data: Bytes) -> None:
        self.room(data.size)[:] = data

    def words(self, *words: int) -> None:
        self.room(len(words) * _WORD_BYTES).view("<u4")[:] = words
