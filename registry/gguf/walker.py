"""Walks forward through a GGUF header, within bounds on memory and time whatever the file claims."""

import contextlib
import hashlib
import struct
from typing import BinaryIO

from registry.gguf.errors import Incomplete, Invalid

MAX_HEADER_BYTES = 128 << 20
"""Real headers, vocabulary and merges included, reach about 30 MiB."""
MAX_STRINGS = 2_000_000
"""In arrays, all together: the largest vocabularies and their merges have under 1,000,000."""
MAX_DIMENSIONS = 4
MAX_ARRAY_NUMBERS = 1024
"""Of an array that has one for each layer."""

Value = int | float | bool | str

SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
STRING = 8
ARRAY = 9
_U32 = SCALARS[4]
_U64 = SCALARS[10]


class Walker:
    """Walks forward through the header, holding what it has read so far."""

    _STEP_BYTES = 1 << 20

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._buffer = bytearray()
        self._strings_left = MAX_STRINGS
        self.position = 0

    def digest(self) -> str:
        return hashlib.sha256(memoryview(self._buffer)[: self.position]).hexdigest()

    def peek(self, size: int) -> bytes:
        """Up to ``size`` bytes from here on; fewer at the end of the file."""
        with contextlib.suppress(Incomplete):
            self._fill(self.position + size)
        return bytes(self._buffer[self.position : self.position + size])

    def take(self, size: int) -> bytes:
        start = self.position
        self.skip(size)
        return bytes(self._buffer[start : self.position])

    def skip(self, size: int) -> None:
        self._fill(self.position + size)
        self.position += size

    def scalar(self, kind: int) -> Value:
        form = SCALARS.get(kind)
        if form is None:
            raise Invalid(f"has a value of type {kind}, which GGUF does not know")
        (value,) = form.unpack(self.take(form.size))
        result: Value = value
        return result

    def u32(self) -> int:
        (value,) = _U32.unpack(self.take(4))
        return int(value)

    def u64(self) -> int:
        (value,) = _U64.unpack(self.take(8))
        return int(value)

    def count(self, of: str, limit: int) -> int:
        value = self.u64()
        if value > limit:
            raise Invalid(f"claims to have {value} {of}")
        return value

    def dimensions(self, tensor: str) -> int:
        value = self.u32()
        if value > MAX_DIMENSIONS:
            raise Invalid(f"tensor {tensor!r} has {value} dimensions")
        return value

    def text(self, limit: int, what: str) -> str:
        """A string of at most ``limit`` bytes. It comes without NUL, which PostgreSQL does not store."""
        size = self.u64()
        if size > limit:
            raise Invalid(f"has a {what} of {size:,} bytes")
        return self.take(size).decode("utf-8", errors="replace").replace("\0", "")

    def skip_text(self) -> None:
        self.skip(self.u64())

    def array(self) -> tuple[tuple[Value, ...], int]:
        """The numbers of an array, and how many there are; one of texts, or with more than any model has layers, is
        only counted."""
        kind, count = self.u32(), self.u64()
        if kind in SCALARS and count <= MAX_ARRAY_NUMBERS:
            return tuple(self.scalar(kind) for _ in range(count)), count
        self._skip_array(kind, count)
        return (), count

    def skip_array(self) -> int:
        """How many there were."""
        kind, count = self.u32(), self.u64()
        self._skip_array(kind, count)
        return count

    def _skip_array(self, kind: int, count: int) -> None:
        if kind == STRING:
            self._skip_strings(count)
        elif kind in SCALARS:
            self.skip(count * SCALARS[kind].size)
        else:
            raise Invalid(f"has an array of type {kind}, which llama.cpp does not read")

    def _skip_strings(self, count: int) -> None:
        """The hot loop: a vocabulary and its merges are hundreds of thousands of strings."""
        if count > self._strings_left:
            raise Invalid(f"has an array of {count} strings")
        self._strings_left -= count
        position, available = self.position, len(self._buffer)
        buffer, length_at = self._buffer, _U64.unpack_from
        for _ in range(count):
            body = position + 8
            if body > available:
                self._fill(body)
                available = len(buffer)
            position = body + length_at(buffer, position)[0]
        self.position = position
        self._fill(position)

    def _fill(self, end: int) -> None:
        """Have the buffer reach ``end`` at least."""
        if end <= len(self._buffer):
            return
        if end > MAX_HEADER_BYTES:
            raise Invalid(f"its header claims to be larger than {MAX_HEADER_BYTES >> 20} MiB")
        while len(self._buffer) < end:
            data = self._file.read(self._STEP_BYTES)
            if not data:
                raise Incomplete(
                    f"the file ends within its header, after {len(self._buffer):,} bytes:"
                    " still being copied, or truncated"
                )
            self._buffer += data
