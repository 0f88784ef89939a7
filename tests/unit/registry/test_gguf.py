"""Headers of good, unfinished and hostile files."""

import io
import struct
import time
from pathlib import Path

import gguf as writer_library
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry import gguf
from registry.gguf import walker
from registry.gguf.header import MAX_KEYS, MAX_TENSORS
from registry.gguf.tables import FILE_TYPES, TENSOR_TYPES
from registry.starter import starter_path
from tests.gguf_files import (
    CHATML_WITH_TOOLS,
    write_hybrid,
    write_model,
    write_projector,
    write_recurrent,
    write_shards,
)


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return u64(len(raw)) + raw


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + u32(kind) + value


def tensor(name: str, shape: list[int], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + u32(len(shape)) + b"".join(u64(n) for n in shape) + u32(kind) + u64(offset)


ARCHITECTURE = key("general.architecture", 8, text("llama"))


def file_of(*keys: bytes, tensors: tuple[bytes, ...] = (), version: int = 3) -> io.BytesIO:
    everything = (ARCHITECTURE, *keys)
    counts = u64(len(tensors)) + u64(len(everything))
    return io.BytesIO(b"GGUF" + u32(version) + counts + b"".join(everything) + b"".join(tensors))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_model(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


# --- What good files say ---------------------------------------------------------------------------------------------


def test_the_header_says_what_the_model_is(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", name="Tiny Two", context_length=777)

    header = gguf.read_header(path)

    assert (header.name, header.architecture, header.context_length) == ("Tiny Two", "llama", 777)
    assert (header.kind, header.tokenizer_model, header.has_chat_template) == ("model", "llama", True)
    assert header.quantization == "F32"


def test_the_header_agrees_with_the_gguf_package_on_a_real_model() -> None:
    path = starter_path()
    assert path is not None

    header = gguf.read_header(path)

    reader = writer_library.GGUFReader(path)
    assert header.parameter_count == sum(int(tensor.n_elements) for tensor in reader.tensors)
    assert header.tensor_count == len(reader.tensors)
    assert header.extent_bytes == max(int(t.data_offset) + int(t.n_bytes) for t in reader.tensors)
    assert (header.quantization, header.context_length, header.architecture) == ("Q4_1", 8192, "llama")
    assert gguf.missing(header, path.stat().st_size) is None


def test_our_tables_agree_with_the_gguf_package_and_the_installed_llama_cpp() -> None:
    import ctypes

    import llama_cpp

    library = next(Path(llama_cpp.__file__).parent.glob("lib/libggml-base.*"))
    ggml = ctypes.CDLL(str(library))
    ggml.ggml_type_size.restype = ctypes.c_size_t
    ggml.ggml_blck_size.restype = ctypes.c_int64
    for number, known in TENSOR_TYPES.items():
        assert (ggml.ggml_blck_size(number), ggml.ggml_type_size(number)) == known[1:], known.name
    for file_type in writer_library.LlamaFileType:
        if file_type.name != "GUESSED":
            assert (
                file_type.name.removeprefix("ALL_").removeprefix("MOSTLY_").removesuffix("_MOE")
                == (FILE_TYPES[file_type.value])
            )


def test_the_shape_of_a_real_model() -> None:
    """SmolLM2-135M: 30 layers, 9 heads of 64, 3 of them for keys and values."""
    path = starter_path()
    assert path is not None
    assert gguf.read_header(path).shape == gguf.Shape(
        layers=30,
        embedding=576,
        feed_forward=1536,
        heads=9,
        vocabulary=49_152,
        key_elements=30 * 3 * 64,
        value_elements=30 * 3 * 64,
    )


def test_layers_without_rows_have_a_state(tmp_path: Path) -> None:
    recurrent = gguf.read_header(write_recurrent(tmp_path / "recurrent.gguf")).shape
    assert recurrent.key_elements == recurrent.value_elements == 0 < recurrent.state_elements
    hybrid = gguf.read_header(write_hybrid(tmp_path / "hybrid.gguf", layers=4)).shape
    assert hybrid.key_elements > 0 and hybrid.state_elements == recurrent.state_elements


def test_a_shape_that_nobody_has_is_none() -> None:
    absurd = file_of(
        key("llama.block_count", 10, u64(2**63)),
        key("llama.embedding_length", 8, text("wide")),
        key("llama.attention.head_count", 9, u32(4) + u64(5000) + bytes(4 * 5000)),
    )
    assert gguf.parse(absurd).shape == gguf.NO_SHAPE


def test_without_a_file_type_the_quantization_is_that_of_most_elements(tmp_path: Path) -> None:
    assert gguf.read_header(write_model(tmp_path / "m.gguf", file_type=None)).quantization == "F32"


def test_equal_headers_have_equal_digests_whatever_the_weights(tmp_path: Path) -> None:
    one, other = (gguf.read_header(write_model(tmp_path / f"{seed}.gguf", seed=seed)) for seed in (1, 2))
    third = gguf.read_header(write_model(tmp_path / "3.gguf", context_length=1))

    assert one.digest == other.digest != third.digest


def test_shards_know_their_place(tmp_path: Path) -> None:
    headers = [gguf.read_header(path) for path in write_shards(tmp_path, "m", 3)]

    assert [(header.split_no, header.split_count) for header in headers] == [(0, 3), (1, 3), (2, 3)]
    assert sum(header.parameter_count for header in headers) == 42336


def test_a_projector_is_recognised(tmp_path: Path) -> None:
    assert gguf.read_header(write_projector(tmp_path / "m.gguf")).is_projector
    assert not gguf.read_header(write_model(tmp_path / "n.gguf")).is_projector


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("chat", "completion")),
        ({"chat_template": None}, ("completion",)),
        ({"chat_template": CHATML_WITH_TOOLS}, ("chat", "completion", "tools")),
        ({"tokenizer": False}, ()),
        ({"architecture": "bert"}, ("embedding",)),
        ({"architecture": "nomic-bert", "pooling": writer_library.PoolingType.MEAN}, ("embedding",)),
        ({"architecture": "qwen3", "pooling": writer_library.PoolingType.LAST}, ("embedding",)),
        ({"architecture": "qwen3", "pooling": writer_library.PoolingType.NONE}, ("chat", "completion")),
        ({"architecture": "bert", "pooling": writer_library.PoolingType.CLS}, ("embedding",)),
        ({"architecture": "bert", "pooling": writer_library.PoolingType.RANK}, ()),
        ({"architecture": "bert", "pooling": writer_library.PoolingType.NONE}, ()),
        ({"architecture": "llada"}, ()),
    ],
)
def test_capabilities_follow_from_the_header(
    tmp_path: Path, options: dict[str, object], expected: tuple[str, ...]
) -> None:
    header = gguf.read_header(write_model(tmp_path / "m.gguf", **options))  # type: ignore[arg-type]

    assert gguf.capabilities(header) == expected


# --- Files that are not finished -------------------------------------------------------------------------------------


def test_a_file_is_complete_with_its_last_tensors_last_byte(tiny: bytes) -> None:
    header = gguf.parse(io.BytesIO(tiny))

    assert gguf.missing(header, header.extent_bytes) is None
    assert gguf.missing(header, header.extent_bytes + 100) is None
    assert gguf.missing(header, 100_000) == "0.1 MB of 0.2 MB there: still being copied, or truncated"
    assert gguf.missing(header, header.extent_bytes - 1) == (
        "178,815 bytes of 178,816 bytes there: still being copied, or truncated"
    )


def test_a_header_cut_anywhere_is_incomplete(tiny: bytes) -> None:
    end = len(tiny) - 42336 * 4 - 64  # somewhere before the tensors' data
    for size in [*range(1, 400), *range(400, end, 37)]:
        with pytest.raises(gguf.Incomplete):
            gguf.parse(io.BytesIO(tiny[:size]))


def test_space_that_was_only_reserved_is_incomplete() -> None:
    with pytest.raises(gguf.Incomplete, match="nothing has been written yet"):
        gguf.parse(io.BytesIO(bytes(4096)))


# --- Files that are something else, or hostile -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"", "empty file"),
        (b"Hello, world, this is text", "not a GGUF: begins with 'Hello, world, th'"),
        (b"\x00\xff\x10", r"not a GGUF: begins with '\\x00\\xff\\x10'"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        (b"tjgg\x01\x00\x00\x00", "an old GGML file"),
        (b"GGUF" + u32(1), "GGUF version 1"),
        (b"GGUF" + u32(9), "GGUF version 9; this server knows 2 and 3"),
        (b"GGUF\x00\x00\x00\x03", "big-endian"),
    ],
)
def test_what_is_no_gguf_is_told_apart(start: bytes, reason: str) -> None:
    with pytest.raises(gguf.Invalid, match=reason):
        gguf.parse(io.BytesIO(start))


def test_version_2_is_read() -> None:
    assert gguf.parse(file_of(version=2)).format_version == 2


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (io.BytesIO(b"GGUF" + u32(3) + u64(MAX_TENSORS + 1) + u64(0)), "claims to have .* tensors"),
        (io.BytesIO(b"GGUF" + u32(3) + u64(0) + u64(MAX_KEYS + 1)), "claims to have .* keys"),
        (io.BytesIO(b"GGUF" + u32(3) + u64(0) + u64(0)), "names no architecture"),
        (io.BytesIO(b"GGUF" + u32(3) + u64(0) + u64(1) + u64(1 << 60)), "has a key of"),
        (file_of(key("a", 99, b"")), "a value of type 99"),
        (file_of(key("a", 9, u32(9) + u64(1))), "an array of type 9"),
        (file_of(key("a", 9, u32(99) + u64(1))), "an array of type 99"),
        (file_of(key("a", 9, u32(4) + u64(1 << 62))), "header claims to be larger"),
        (file_of(key("a", 9, u32(8) + u64(1 << 62))), "an array of .* strings"),
        (file_of(key("a", 9, u32(8) + u64(2) + u64(1 << 63))), "header claims to be larger"),
        (file_of(key("a", 8, u64(1 << 63))), "header claims to be larger"),
        (file_of(key("tokenizer.chat_template", 8, u64(1 << 40))), "has a tokenizer.chat_template of"),
        (file_of(ARCHITECTURE), "names the key 'general.architecture' twice"),
        (file_of(key("general.name", 4, u32(1))), "general.name should be text"),
        (file_of(key("general.alignment", 4, u32(3))), "not a power of two"),
        (file_of(key("general.alignment", 4, u32(0))), "not a power of two"),
        (file_of(key("llama.context_length", 5, struct.pack("<i", -1))), "should be a whole number"),
        (file_of(key("llama.context_length", 7, b"\1")), "should be a whole number"),
        (file_of(key("llama.context_length", 10, u64(1 << 63))), "should be a whole number"),
        (file_of(key("split.count", 8, text("three"))), "split.count should be a whole number"),
        (file_of(tensors=(tensor("a", [1, 1, 1, 1, 1]),)), "has 5 dimensions"),
        (file_of(tensors=(tensor("a", [1], kind=4),)), "which llama.cpp no longer reads"),
        (file_of(tensors=(tensor("a", [1], kind=777),)), "which this server does not know"),
        (file_of(tensors=(tensor("a", [33], kind=2),)), "rows of 33, no multiple of Q4_0's 32"),
        (file_of(tensors=(tensor("a", [1 << 40, 1 << 40]),)), "more elements than fit"),
        (file_of(tensors=(tensor("a", [1 << 62]),)), "larger than fits"),
        (file_of(tensors=(tensor("a", [8], offset=32),)), "not after the one before it"),
        (file_of(tensors=(tensor("a", [8]), tensor("a", [8], offset=32))), "names the tensor 'a' twice"),
        (file_of(tensors=(tensor("x" * 64, [8]),)), "has a tensor name of 64 bytes"),
    ],
)
def test_what_llama_cpp_would_refuse_is_refused_with_the_reason(file: io.BytesIO, reason: str) -> None:
    with pytest.raises(gguf.Invalid, match=reason):
        gguf.parse(file)


def test_an_architecture_that_is_no_name_is_refused() -> None:
    strange = b"GGUF" + u32(3) + u64(0) + u64(1) + key("general.architecture", 8, text("ll\nama"))
    with pytest.raises(gguf.Invalid, match=r"general\.architecture is"):
        gguf.parse(io.BytesIO(strange))


def test_text_that_is_no_utf8_or_holds_a_nul_is_made_storable() -> None:
    header = gguf.parse(file_of(key("general.name", 8, text(b"a\x00b\xff"))))

    assert header.name == "ab\ufffd"


def test_the_worst_headers_take_bounded_time_and_memory() -> None:
    """In a file that never ends: as many strings as we step over, and as many bytes as we hold."""

    class Endless(io.RawIOBase):
        taken = 0

        def __init__(self, start: bytes) -> None:
            self._start = io.BytesIO(start)

        def read(self, size: int = -1) -> bytes:
            data = self._start.read(size) or bytes(size)
            self.taken += len(data)
            return data

    strings = key("a", 9, u32(8) + u64(walker.MAX_STRINGS))
    bytes_ = key("a", 9, u32(0) + u64(walker.MAX_HEADER_BYTES - 100))
    began = time.process_time()
    for array in (strings, bytes_):
        file = Endless(b"GGUF" + u32(3) + u64(0) + u64(2) + array)
        with pytest.raises(gguf.GgufError):
            gguf.parse(file)  # type: ignore[arg-type]
        assert file.taken <= walker.MAX_HEADER_BYTES + (1 << 20)

    assert time.process_time() - began < 20


def test_what_can_not_be_opened_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(gguf.Unreadable, match="can't be read: No such file"):
        gguf.read_header(tmp_path / "none.gguf")
    with pytest.raises(gguf.Unreadable, match="can't be read: Is a directory"):
        gguf.read_header(tmp_path)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_whatever_the_bytes_are_nothing_but_a_gguf_error_comes_out(tiny: bytes, data: st.DataObject) -> None:
    header_end = len(tiny) - 42336 * 4
    mutated = bytearray(tiny[: data.draw(st.integers(0, header_end), label="size")])
    for position, value in data.draw(
        st.lists(st.tuples(st.integers(0, header_end), st.integers(0, 255)), max_size=8), label="changes"
    ):
        if position < len(mutated):
            mutated[position] = value
    parse_safely(bytes(mutated))


@settings(max_examples=300, deadline=None)
@given(
    counts=st.tuples(st.integers(0, 3), st.integers(0, 4)),
    body=st.lists(
        st.one_of(
            st.binary(max_size=12),
            st.integers(0, (1 << 64) - 1).map(u64),
            st.integers(0, 13).map(u32),
            st.sampled_from(["general.architecture", "llama", "general.alignment", "split.no", "x"]).map(text),
        ),
        max_size=30,
    ),
)
def test_whatever_follows_the_magic_nothing_but_a_gguf_error_comes_out(
    counts: tuple[int, int], body: list[bytes]
) -> None:
    parse_safely(b"GGUF" + u32(3) + u64(counts[0]) + u64(counts[1]) + b"".join(body))


def parse_safely(content: bytes) -> None:
    try:
        header = gguf.parse(io.BytesIO(content))
    except gguf.GgufError as fault:
        assert str(fault)
        return
    gguf.capabilities(header)
    gguf.missing(header, len(content))
