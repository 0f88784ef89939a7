"""Sequence state in llama.cpp's form, written here independently, cut and joined."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine.cache.state import Bytes, UnknownForm, join, parse

MAGIC = 0xAF143CD8


def written(
    *, positions: list[int], slot: int, streams: int, transposed: bool, layers: int, caches: int, seed: int = 0
) -> tuple[Bytes, list[Bytes]]:
    """A state as llama.cpp writes it, and its KV by token, in the order of the positions."""
    random = np.random.default_rng(seed)
    cells = len(positions)
    blob = struct.pack("<II", MAGIC, slot)
    by_token: list[list[Bytes]] = [[] for _ in positions]
    stream = slot if streams > 1 else 0
    for _ in range(caches):
        blob += struct.pack("<I", streams) + bytes(4 * stream) + struct.pack("<I", cells)
        for position in positions:
            blob += struct.pack("<iIi", position, 1, slot)
        blob += struct.pack("<II", transposed, layers)
        for part in range(2 * layers):
            width = 8 + 4 * (part % 3)
            rows = random.integers(0, 256, (cells, width), np.uint8)
            if transposed and part >= layers:
                blob += struct.pack("<iII", 1, 2, width // 2)
                blob += rows.reshape(cells, width // 2, 2).transpose(1, 0, 2).tobytes()
            else:
                blob += struct.pack("<iQ", 1, width) + rows.tobytes()
            for row, position in zip(rows, positions, strict=True):
                by_token[position].append(row)
        blob += bytes(4 * (streams - 1 - stream))
    return np.frombuffer(blob, np.uint8), [np.concatenate(parts) for parts in by_token]


shapes = st.fixed_dictionaries(
    {
        "slot": st.integers(0, 3),
        "streams": st.sampled_from([1, 4]),
        "transposed": st.booleans(),
        "layers": st.integers(1, 3),
        "caches": st.integers(1, 2),
        "seed": st.integers(0, 99),
    }
)


@settings(max_examples=100, deadline=None)
@given(shapes, st.permutations(range(12)), st.integers(1, 11))
def test_a_token_has_its_own_kv_wherever_its_cell_is(shape: dict[str, int], positions: list[int], at: int) -> None:
    blob, by_token = written(positions=positions, **shape)  # type: ignore[arg-type]
    state = parse(blob)
    assert state.tokens == 12
    one = state.cut(at, at + 1)
    assert np.array_equal(np.sort(one), np.sort(by_token[at]))
    assert one.size == state.layout.token_bytes


@settings(max_examples=100, deadline=None)
@given(shapes, st.integers(1, 11), st.integers(0, 3), st.sampled_from([1, 4]))
def test_what_is_cut_and_joined_is_what_llama_cpp_would_have_written(
    shape: dict[str, int], cut: int, slot: int, streams: int
) -> None:
    blob, _ = written(positions=list(range(12)), **shape)  # type: ignore[arg-type]
    state = parse(blob)
    parts = [(state.cut(0, cut), cut, cut), (state.cut(cut, 12), 12 - cut, 12 - cut)]
    wanted, _ = written(positions=list(range(12)), **{**shape, "slot": slot, "streams": streams})  # type: ignore[arg-type]
    assert np.array_equal(join(state.layout, parts, slot=slot, streams=streams), wanted)


@settings(max_examples=50, deadline=None)
@given(shapes, st.integers(1, 6))
def test_the_beginning_of_a_part_can_be_used_alone(shape: dict[str, int], used: int) -> None:
    blob, _ = written(positions=list(range(12)), **shape)  # type: ignore[arg-type]
    state = parse(blob)
    joined = parse(join(state.layout, [(state.cut(0, 5), 5, 5), (state.cut(5, 12), 7, used)], slot=0, streams=1))
    assert joined.tokens == 5 + used
    assert np.array_equal(joined.cut(0, 5 + used), state.cut(0, 5 + used))


def test_a_joined_state_may_be_built_in_memory_that_held_another() -> None:
    blob, _ = written(positions=list(range(12)), slot=1, streams=4, transposed=False, layers=2, caches=1)
    state = parse(blob)
    dirty = np.full(blob.size + 100, 255, np.uint8)
    joined = join(state.layout, [(state.cut(0, 12), 12, 12)], slot=1, streams=4, buffer=dirty)
    assert np.array_equal(joined, blob)


@given(st.data(), shapes)
@settings(max_examples=100, deadline=None)
def test_a_state_that_ends_too_early_is_refused(data: st.DataObject, shape: dict[str, int]) -> None:
    blob, _ = written(positions=list(range(12)), **shape)  # type: ignore[arg-type]
    end = data.draw(st.integers(0, blob.size - 1))
    whole_caches = shape["caches"] == 2 and end > blob.size // 3
    try:
        state = parse(blob[:end])
    except UnknownForm:
        return
    assert whole_caches and state.tokens == 12, "only at the border between two caches does it look whole"


@pytest.mark.parametrize("positions", [[0, 1, 3], [1, 2, 3], [0, 0, 1]])
def test_positions_with_gaps_are_refused(positions: list[int]) -> None:
    blob = bytearray(written(positions=[0, 1, 2], slot=0, streams=1, transposed=False, layers=1, caches=1)[0].tobytes())
    for index, position in enumerate(positions):
        struct.pack_into("<i", blob, 16 + 12 * index, position)
    with pytest.raises(UnknownForm, match="positions"):
        parse(np.frombuffer(bytes(blob), np.uint8))


def test_a_state_without_cells_is_refused() -> None:
    with pytest.raises(UnknownForm, match="no stream"):
        parse(np.frombuffer(struct.pack("<IIIII", MAGIC, 0, 2, 0, 0), np.uint8))
