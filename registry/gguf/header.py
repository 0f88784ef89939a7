"""What the header of a GGUF says, read without its tensors.

A header is walked once, front to back, within bounds on memory and time whatever the file claims; tokens, merges and
other arrays are stepped over. The `gguf` package does the same in seconds, because it makes a numpy array of every
token. The checks are llama.cpp's own (`gguf_init_from_file`), so that what passes here is what it will load.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from registry.gguf.errors import Incomplete, Invalid, Unreadable
from registry.gguf.shape import NO_SHAPE, Arrays, Shape, is_shape, shape_of
from registry.gguf.tables import FILE_TYPES, GUESSED_FILE_TYPE, POOLING_TYPES, REMOVED_TENSOR_TYPES, TENSOR_TYPES
from registry.gguf.walker import ARRAY, STRING, Value, Walker

MAX_KEYS = 16_384
MAX_KEY_BYTES = 1_024
MAX_TENSORS = 65_536
MAX_TENSOR_NAME_BYTES = 63
MAX_TEXT_BYTES = 4 << 20
"""Of the values that we keep; chat templates are the longest of them, at about 20 KB."""
DEFAULT_ALIGNMENT = 32

_MAX_INT64 = (1 << 63) - 1
_ARCHITECTURE = re.compile(r"[a-zA-Z0-9_.\-]{1,64}")
_TOOLS = re.compile(r"\btools\b")

_TEXTS = frozenset(
    {"general.architecture", "general.name", "general.type", "tokenizer.chat_template", "tokenizer.ggml.model"}
)
"""The texts that we keep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    format_version: int
    kind: str
    """`general.type`: ``model``, or else ``adapter``, ``mmproj``, ``imatrix``…"""
    architecture: str
    """Empty in shards after the first."""
    name: str
    parameter_count: int
    """Elements of all tensors in this file."""
    quantization: str
    """Such as ``Q4_K_M``; the type of most elements where the file names none; empty without tensors."""
    context_length: int | None
    """Tokens that the model was trained for."""
    has_chat_template: bool
    mentions_tools: bool
    """Whether its chat template knows the variable ``tools``."""
    pooling: str | None
    """``none``, ``mean``, ``cls``, ``last``, ``rank``; None where the file names none."""
    causal: bool
    tokenizer_model: str
    """Empty where the file has no tokenizer."""
    split_no: int
    split_count: int
    """1 for a file that is the whole model."""
    tensor_count: int
    digest: str
    """SHA-256 of the header: the cheap part of a content's identity."""
    extent_bytes: int
    """Where the data of its last tensor ends."""
    shape: Shape = NO_SHAPE
    """What the memory that it computes in depends on."""

    @property
    def is_projector(self) -> bool:
        """Whether it is the vision or audio part of another model."""
        return self.architecture == "clip" or self.kind == "mmproj"


def read_header(path: Path) -> GgufHeader:
    """The header of the file at ``path``, which may go on growing: see :func:`missing`.

    Raises:
        GgufError: and no other, see :mod:`registry.gguf.errors`.
    """
    try:
        with path.open("rb", buffering=0) as file:
            return parse(file)
    except OSError as fault:
        raise Unreadable(f"can't be read: {fault.strerror or fault}") from fault


def parse(file: BinaryIO) -> GgufHeader:
    """The header at the start of ``file``.

    Raises:
        GgufError: see :mod:`registry.gguf.errors`.
        OSError: as reading the file does.
    """
    walker = Walker(file)
    format_version = _format_version(walker)
    tensor_count = walker.count("tensors", MAX_TENSORS)
    key_count = walker.count("keys", MAX_KEYS)
    values, arrays = _values(walker, key_count)
    alignment = _alignment(values)
    tensors = _tensors(walker, tensor_count, alignment)
    data_start = _padded(walker.position, alignment)
    architecture = _architecture(values)
    template = _text(values, "tokenizer.chat_template")
    return GgufHeader(
        format_version=format_version,
        kind=_text(values, "general.type").lower() or "model",
        architecture=architecture,
        name=_text(values, "general.name"),
        parameter_count=sum(tensors.elements.values()),
        quantization=_quantization(values, tensors.elements),
        context_length=_whole(values, f"{architecture}.context_length"),
        has_chat_template=bool(template),
        mentions_tools=bool(_TOOLS.search(template)),
        pooling=_pooling(values, architecture),
        causal=values.get(f"{architecture}.attention.causal") is not False,
        tokenizer_model=_tokenizer_model(values),
        split_no=_whole(values, "split.no") or 0,
        split_count=_whole(values, "split.count") or 1,
        tensor_count=tensor_count,
        digest=walker.digest(),
        extent_bytes=data_start + tensors.data_bytes if tensor_count else walker.position,
        shape=shape_of(architecture, values, arrays),
    )


def missing(header: GgufHeader, size_bytes: int) -> str | None:
    """Why a file of ``size_bytes`` is not complete; None when it is."""
    if size_bytes >= header.extent_bytes:
        return None
    there, all_of_it = f"{_megabytes(size_bytes)} MB", f"{_megabytes(header.extent_bytes)} MB"
    if there == all_of_it:
        there, all_of_it = f"{size_bytes:,} bytes", f"{header.extent_bytes:,} bytes"
    return f"{there} of {all_of_it} there: still being copied, or truncated"


def _format_version(walker: Walker) -> int:
    start = walker.peek(32)
    if not start:
        raise Invalid("empty file")
    if len(start) == 32 and not any(start):
        raise Incomplete("begins with zeros: its space was reserved, but nothing has been written yet")
    if not b"GGUF".startswith(start[:4]):
        raise Invalid(_not_gguf(start))
    walker.take(4)
    version = walker.u32()
    if version & 0xFFFF == 0 and version:
        raise Invalid("is a big-endian GGUF; convert it for a little-endian machine")
    if version == 1:
        raise Invalid("is of GGUF version 1, which llama.cpp no longer reads; convert it again")
    if version not in (2, 3):
        raise Invalid(f"is of GGUF version {version}; this server knows 2 and 3")
    return version


def _not_gguf(start: bytes) -> str:
    if start[:4] in (b"lmgg", b"fmgg", b"tjgg", b"algg"):
        return "is an old GGML file, not a GGUF; convert it with llama.cpp's tools"
    if start.startswith(b"version https://git-lfs"):
        return "not a GGUF but a Git LFS pointer; fetch the file itself with `git lfs pull`"
    shown = repr(start[:16])[1:]  # without Python's b
    return f"not a GGUF: begins with {shown}"


def _values(walker: Walker, count: int) -> tuple[dict[str, Value], Arrays]:
    """All scalar values by their key; of texts only those in ``_TEXTS``, others come out empty. Of arrays those that a
    shape is made of, the rest is left out."""
    values: dict[str, Value] = {}
    arrays = Arrays()
    seen: set[str] = set()
    for _ in range(count):
        key = walker.text(MAX_KEY_BYTES, "key")
        if key in seen:
            raise Invalid(f"names the key {key[:80]!r} twice")
        seen.add(key)
        kind = walker.u32()
        if kind == ARRAY:
            numbers, length = walker.array() if is_shape(key) else ((), walker.skip_array())
            arrays.add(key, numbers, length)
        elif kind == STRING and key in _TEXTS:
            values[key] = walker.text(MAX_TEXT_BYTES, key)
        elif kind == STRING:
            walker.skip_text()
            values[key] = ""
        else:
            values[key] = walker.scalar(kind)
    return values, arrays


@dataclass(slots=True)
class _Tensors:
    elements: Counter[str]
    """By the name of the tensor type."""
    data_bytes: int
    """From the start of the data section to the end of the last tensor."""


def _tensors(walker: Walker, count: int, alignment: int) -> _Tensors:
    tensors = _Tensors(Counter(), 0)
    names: set[str] = set()
    for _ in range(count):
        name = walker.text(MAX_TENSOR_NAME_BYTES, "tensor name")
        if name in names:
            raise Invalid(f"names the tensor {name!r} twice")
        names.add(name)
        shape = [walker.u64() for _ in range(walker.dimensions(name))]
        tensor_type = walker.u32()
        offset = walker.u64()
        _add_tensor(tensors, name, shape, tensor_type, offset, alignment)
    return tensors


def _add_tensor(tensors: _Tensors, name: str, shape: list[int], tensor_type: int, offset: int, alignment: int) -> None:
    known = TENSOR_TYPES.get(tensor_type)
    if known is None:
        gone = ", which llama.cpp no longer reads" if tensor_type in REMOVED_TENSOR_TYPES else ""
        raise Invalid(f"tensor {name!r} is of type {tensor_type}{gone or ', which this server does not know'}")
    row = shape[0] if shape else 1
    if row % known.block_elements:
        raise Invalid(f"tensor {name!r} has rows of {row}, no multiple of {known.name}'s {known.block_elements}")
    elements = 1
    for dimension in shape:
        elements *= dimension
        if elements > _MAX_INT64:
            raise Invalid(f"tensor {name!r} has more elements than fit into 63 bits")
    if offset != _padded(tensors.data_bytes, alignment):
        raise Invalid(f"tensor {name!r} lies at {offset}, not after the one before it")
    tensors.elements[known.name] += elements
    tensors.data_bytes = offset + elements // known.block_elements * known.block_bytes
    if tensors.data_bytes > _MAX_INT64 or tensors.elements.total() > _MAX_INT64:
        raise Invalid("its tensors are larger than fits into 63 bits")


def _alignment(values: dict[str, Value]) -> int:
    alignment = _whole(values, "general.alignment")
    if alignment is None:
        return DEFAULT_ALIGNMENT
    if alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 31:
        raise Invalid(f"general.alignment is {alignment}, not a power of two")
    return alignment


def _architecture(values: dict[str, Value]) -> str:
    """Required, but only the first shard carries it."""
    architecture = _text(values, "general.architecture")
    if architecture and not _ARCHITECTURE.fullmatch(architecture):
        raise Invalid(f"general.architecture is {architecture[:80]!r}")
    later_shard = bool(_whole(values, "split.no"))
    imatrix = _text(values, "general.type") == "imatrix"
    if not architecture and not later_shard and not imatrix:
        raise Invalid("names no architecture (general.architecture)")
    return architecture


def _quantization(values: dict[str, Value], elements: Counter[str]) -> str:
    file_type = _whole(values, "general.file_type")
    named = None if file_type is None else FILE_TYPES.get(file_type & ~GUESSED_FILE_TYPE)
    if named or not elements:
        return named or ""
    return elements.most_common(1)[0][0]


def _pooling(values: dict[str, Value], architecture: str) -> str | None:
    number = _whole(values, f"{architecture}.pooling_type")
    return None if number is None else POOLING_TYPES.get(number)


def _tokenizer_model(values: dict[str, Value]) -> str:
    model = _text(values, "tokenizer.ggml.model")
    return "" if model in ("no_vocab", "none") else model


def _text(values: dict[str, Value], key: str) -> str:
    """Empty when absent.

    Raises:
        Invalid: when it is something else than text.
    """
    value = values.get(key, "")
    if not isinstance(value, str):
        raise Invalid(f"{key} should be text, not {value!r}")
    return value


def _whole(values: dict[str, Value], key: str) -> int | None:
    """None when absent.

    Raises:
        Invalid: when it is not a whole number from 0 to 2⁶³-1.
    """
    value = values.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_INT64:
        raise Invalid(f"{key} should be a whole number, not {value!r:.80}")
    return value


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _megabytes(size: int) -> str:
    """With a decimal below 100 MB."""
    megabytes = size / 1e6
    return f"{megabytes:,.1f}" if megabytes < 100 else f"{megabytes:,.0f}"
