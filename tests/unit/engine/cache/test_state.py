"""Sequence state in llama.cpp's form, written here independently, cut and joined."""

import itertools
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine.cache.state import Bytes, Layout, Memory, Part, UnknownForm, join, parse, usable

MAGIC = 0xAF143CD8


def written(
    *,
    positions: list[int],
    slot: int,
    streams: int,
    transposed: bool,
    layers: int,
    caches: int,
    seed: int = 0,
    window: int = 0,
) -> tuple[Bytes, list[Bytes]]:
    """A state as llama.cpp writes it, and its KV by token, in the order of the positions. With a window the second
    cache holds the last ``window`` tokens only."""
    random = np.random.default_rng(seed)
    everyone = positions
    blob = struct.pack("<II", MAGIC, slot)
    by_token: list[list[Bytes]] = [[] for _ in positions]
    stream = slot if streams > 1 else 0
    for cache in range(caches):
        positions = [each for each in everyone if not (cache and window) or each >= len(everyone) - window]
        cells = len(positions)
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
    assert state.stop == 12
    one = state.cut(at, at + 1)
    assert np.array_equal(np.sort(one), np.sort(by_token[at]))
    assert one.size == sum(cache.token_bytes for cache in state.layout.caches)


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
    assert joined.stop == 5 + used
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
    assert whole_caches and state.stop == 12, "only at the border between two caches does it look whole"


@pytest.mark.parametrize("positions", [[0, 1, 3], [1, 2, 3], [0, 0, 1]])
def test_positions_with_gaps_are_refused(positions: list[int]) -> None:
    blob = bytearray(written(positions=[0, 1, 2], slot=0, streams=1, transposed=False, layers=1, caches=1)[0].tobytes())
    for index, position in enumerate(positions):
        struct.pack_into("<i", blob, 16 + 12 * index, position)
    with pytest.raises(UnknownForm, match=r"gaps|different"):
        parse(np.frombuffer(bytes(blob), np.uint8))


def test_a_state_without_cells_is_refused() -> None:
    with pytest.raises(UnknownForm, match="no stream"):
        parse(np.frombuffer(struct.pack("<IIIII", MAGIC, 0, 2, 0, 0), np.uint8))


# --- Sliding windows -------------------------------------------------------------------------------------------------

SLIDING = {"slot": 0, "streams": 1, "transposed": False, "layers": 2, "caches": 2}


def cut_at(ends: list[int], *, saved_at: list[int], window: int) -> tuple[Layout, list[Part]]:
    """Parts that end at ``ends``, each cut from the state of a sequence as long as ``saved_at`` says."""
    parts: list[Part] = []
    start = 0
    for end, tokens in zip(ends, saved_at, strict=True):
        blob, _ = written(positions=list(range(tokens)), window=window, **SLIDING)  # type: ignore[arg-type]
        state = parse(blob, window)
        parts.append((state.cut(start, end), end - start, end - start))
        start = end
    return state.layout, parts


@pytest.mark.parametrize("tokens", [5, 8, 9, 40])
def test_a_state_with_a_window_is_joined_of_what_was_cut_from_it(tokens: int) -> None:
    layout, parts = cut_at([tokens // 2, tokens], saved_at=[tokens, tokens], window=8)
    assert usable(layout, parts) == tokens
    joined = parse(join(layout, parts, slot=0, streams=1), 8)
    blob, _ = written(positions=list(range(tokens)), window=8, **SLIDING)  # type: ignore[arg-type]
    whole = parse(blob, 8)
    assert (joined.stop, joined.views[0].first, joined.views[1].first) == (tokens, 0, max(0, tokens - 7))
    last = max(0, tokens - 7)
    assert np.array_equal(joined.cut(last, tokens), whole.cut(last, tokens))


def test_a_beginning_whose_window_was_not_kept_is_not_used() -> None:
    layout, parts = cut_at([16, 32], saved_at=[40, 40], window=8)
    assert usable(layout, parts) == 0


def test_a_beginning_that_was_saved_when_it_was_the_end_is_used() -> None:
    layout, parts = cut_at([16, 32], saved_at=[16, 40], window=8)
    assert usable(layout, parts) == 16
    assert parse(join(layout, parts[:1], slot=0, streams=1), 8).stop == 16


def test_all_is_used_where_only_what_nobody_looks_at_is_missing() -> None:
    layout, parts = cut_at([16, 32, 40], saved_at=[40, 40, 40], window=8)
    assert usable(layout, parts) == 40
    assert usable(layout, [*parts[:2], (*parts[2][:2], 7)]) == 39, "a window's oldest row was kept, too"
    assert usable(layout, [*parts[:2], (*parts[2][:2], 6)]) == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.data(), st.integers(1, 24))
def test_what_is_usable_has_every_row_that_is_looked_at(lengths: list[int], data: st.DataObject, window: int) -> None:
    ends = list(itertools.accumulate(lengths))
    saved_at = [data.draw(st.integers(end, ends[-1] + 5)) for end in ends]
    layout, parts = cut_at(ends, saved_at=saved_at, window=window)
    total = usable(layout, parts)
    assert total in (0, *ends)
    for index in range(max(0, total - window + 1), total):
        part = next(at for at, end in enumerate(ends) if index < end)
        assert index >= saved_at[part] - window, "a row that a later token looks at was not in the state"


@pytest.mark.parametrize("window", [0, 8])
def test_a_sequence_may_be_written_range_by_range(window: int) -> None:
    layout, parts = cut_at([16, 32, 40], saved_at=[16, 32, 40], window=window)
    first = join(layout, parts[:1], slot=3, streams=1, start=0, total=40)
    last = parse(join(layout, parts[1:], slot=3, streams=1, start=16, total=40), window, 16)
    assert (last.start, last.stop) == (16, 40)
    assert last.views[0].first == 16 and last.views[1].first == (33 if window else 16)
    second_cache = 2 * layout.blob_bytes(0, 16, 16, 1) // 3
    assert first.size > second_cache if not window else first.size < layout.blob_bytes(0, 16, 16, 1)


def test_a_range_that_begins_elsewhere_is_refused() -> None:
    layout, parts = cut_at([16], saved_at=[16], window=0)
    blob = join(layout, parts, slot=0, streams=1, start=16, total=32)
    with pytest.raises(UnknownForm, match="different"):
        parse(blob, 0, 0)


# --- Recurrent layers ------------------------------------------------------------------------------------------------


def remembered(tokens: int, cells: int = 1, size: int = 40) -> bytes:
    """What llama.cpp writes of recurrent layers."""
    return struct.pack("<IiI", cells, tokens - 1, 0) + bytes(range(size))


def test_a_recurrent_state_is_a_checkpoint_of_its_tokens_and_has_no_rows() -> None:
    blob = np.frombuffer(struct.pack("<II", MAGIC, 3) + remembered(12), np.uint8)
    state = parse(blob, memory=Memory.RECURRENT)
    assert (state.stop, state.checkpoint_tokens, state.layout.checkpoint_bytes) == (12, 12, 52)
    assert state.cut(0, 12).size == 0
    joined = join(state.layout, (), slot=3, streams=4, total=12, checkpoint=state.checkpoint)
    assert np.array_equal(joined, blob)


@settings(max_examples=50, deadline=None)
@given(shapes, st.integers(0, 3), st.sampled_from([1, 4]))
def test_a_hybrid_state_is_cut_and_joined_with_its_checkpoint(shape: dict[str, int], slot: int, streams: int) -> None:
    shape["caches"] = 1
    blob, _ = written(positions=list(range(12)), **shape)  # type: ignore[arg-type]
    state = parse(np.concatenate([blob, np.frombuffer(remembered(12), np.uint8)]), memory=Memory.HYBRID)
    wanted, _ = written(positions=list(range(12)), **{**shape, "slot": slot, "streams": streams})  # type: ignore[arg-type]
    parts = [(state.cut(0, 5), 5, 5), (state.cut(5, 12), 7, 7)]
    joined = join(state.layout, parts, slot=slot, streams=streams, checkpoint=state.checkpoint)
    assert joined.tobytes() == wanted.tobytes() + remembered(12)


@pytest.mark.parametrize(
    "section", [b"", remembered(12)[:8], remembered(12, size=0), remembered(12, cells=0), remembered(12, cells=2)]
)
def test_something_else_than_one_recurrent_state_is_refused(section: bytes) -> None:
    blob = np.frombuffer(struct.pack("<II", MAGIC, 0) + section, np.uint8)
    with pytest.raises(UnknownForm):
        parse(blob, memory=Memory.RECURRENT)
