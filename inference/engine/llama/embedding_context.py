"""What embeddings are computed in."""

import ctypes
from collections.abc import Sequence
from enum import Enum
from typing import Any

import llama_cpp
import numpy as np

from inference.engine.llama.batch import Batch
from inference.engine.llama.context import FloatArray
from inference.engine.llama.native import LlamaError
from inference.engine.llama.pulse import pulse


class Pooling(Enum):
    """How a model's vectors of tokens become one of a text, with llama.cpp's number of it."""

    NONE = llama_cpp.LLAMA_POOLING_TYPE_NONE
    MEAN = llama_cpp.LLAMA_POOLING_TYPE_MEAN
    CLS = llama_cpp.LLAMA_POOLING_TYPE_CLS
    LAST = llama_cpp.LLAMA_POOLING_TYPE_LAST
    RANK = llama_cpp.LLAMA_POOLING_TYPE_RANK


class EmbeddingContext:
    """Computes tokens into the vectors of their sequences, pooled by llama.cpp.

    It pools what one call computes: over a sequence that is computed in parts, the caller does.
    """

    def __init__(self, context: Any, *, batch_tokens: int, sequences: int, width: int, encodes: bool) -> None:
        self._context: Any = context
        self._memory = llama_cpp.llama_get_memory(context)
        self._width = width
        # Encoders without a decoder have a call of their own; llama_decode does the rest of them as well.
        self._compute = llama_cpp.llama_encode if encodes else llama_cpp.llama_decode
        self._batch = Batch(batch_tokens, sequences)

    def embed(self, tokens: Sequence[int], positions: Sequence[int], slots: Sequence[int]) -> dict[int, FloatArray]:
        """The vector of each slot's tokens in this call, not normalised.

        Raises:
            LlamaError: the batch was not computed; the KV cells of its sequences are in doubt.
        """
        llama_cpp.llama_set_embeddings(self._context, True)
        self._run(tokens, positions, slots, range(len(tokens)))
        return {slot: self._vector(slot) for slot in dict.fromkeys(slots)}

    def advance(self, tokens: Sequence[int], positions: Sequence[int], slots: Sequence[int]) -> None:
        """Only take tokens into the KV cells, which is cheaper: no vector and no logits. Raises as :meth:`embed`."""
        llama_cpp.llama_set_embeddings(self._context, False)
        self._run(tokens, positions, slots, ())

    def forget(self, slot: int) -> None:
        if self._memory:
            llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def close(self) -> None:
        """Give the memory back; nothing else may be called after it."""
        llama_cpp.llama_free(self._context)

    def _run(
        self, tokens: Sequence[int], positions: Sequence[int], slots: Sequence[int], outputs: Sequence[int]
    ) -> None:
        self._batch.fill(tokens, positions, slots, outputs)
        with pulse.computing(len(tokens)):
            status = self._compute(self._context, self._batch.struct)
        if status != 0:
            raise LlamaError(f"llama.cpp failed at embeddings with status {status}")

    def _vector(self, slot: int) -> FloatArray:
        pointer = llama_cpp.llama_get_embeddings_seq(self._context, slot)
        if not pointer:
            raise LlamaError("llama.cpp gave no embedding")
        floats = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(floats, shape=(self._width,)).copy()
