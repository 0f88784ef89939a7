"""What one call of llama.cpp is to compute."""

import ctypes
from collections.abc import Sequence

import llama_cpp
import numpy as np


class Batch:
    """A ``llama_batch`` over numpy memory, filled without a Python-level loop over ctypes fields."""

    def __init__(self, capacity: int, sequences: int) -> None:
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._counts = np.ones(capacity, np.int32)
        self._wanted = np.zeros(capacity, np.int8)
        # Every token points at its sequence's id; the ids lie in one array.
        self._ids = np.arange(sequences, dtype=np.int32)
        self._pointers = np.zeros(capacity, np.uint64)
        self.struct = llama_cpp.llama_batch(
            n_tokens=0,
            token=self._tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            pos=self._positions.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            n_seq_id=self._counts.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            seq_id=self._pointers.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
            logits=self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def fill(
        self, tokens: Sequence[int], positions: Sequence[int], slots: Sequence[int], outputs: Sequence[int]
    ) -> None:
        count = len(tokens)
        self._tokens[:count] = tokens
        self._positions[:count] = positions
        self._pointers[:count] = np.asarray(slots, np.uint64) * self._ids.itemsize + self._ids.ctypes.data
        self._wanted[:count] = 0
        self._wanted[list(outputs)] = 1
        self.struct.n_tokens = count
