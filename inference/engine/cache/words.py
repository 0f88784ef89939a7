"""Little-endian words and runs of bytes, as llama.cpp writes its state with."""

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

WORD_BYTES = 4


class UnknownForm(Exception):
    """The state does not have the form that we know; ``str()`` says where."""


class Reader:
    """Raises :class:`UnknownForm` where the bytes end too early."""

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

    def rest(self) -> Bytes:
        return self.take(self._blob.size - self._at)

    def word(self) -> int:
        return int(self.take(WORD_BYTES).view("<u4")[0])


class Writer:
    """Fills memory that is large enough."""

    def __init__(self, out: Bytes) -> None:
        self._out = out
        self._at = 0

    @property
    def written(self) -> int:
        return self._at

    def room(self, count: int) -> Bytes:
        taken = self._out[self._at : self._at + count]
        self._at += count
        return taken

    def bytes(self, data: Bytes) -> None:
        self.room(data.size)[:] = data

    def words(self, *words: int) -> None:
        self.room(len(words) * WORD_BYTES).view("<u4")[:] = words
