"""KV cells of some sequences, and the decoding over them."""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from inference.engine.llama.batch import Batch
from inference.engine.llama.native import LlamaError, aborted
from inference.engine.llama.pulse import pulse

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]


class Context:
    """KV cells of some sequences, and the decoding over them."""

    def __init__(self, context: Any, vocabulary_size: int, batch_tokens: int, sequences: int, *, streams: int) -> None:
        self._context = context
        self._memory = llama_cpp.llama_get_memory(context)
        self._vocabulary_size = vocabulary_size
        self.streams = streams
        """How many streams its KV cache has: one for each sequence, or one for all in the unified layout."""
        self._batch = Batch(batch_tokens, sequences)
        self._state: ByteArray = np.empty(0, np.uint8)
        self._abort: Any = None

    def close(self) -> None:
        """Give the memory back; nothing else may be called after it."""
        llama_cpp.llama_free(self._context)
        self._abort = None  # which holds who made it, and so us

    def abort_when(self, wanted: Callable[[], bool]) -> None:
        """Have a decode fail as soon as ``wanted()`` (asked within each some hundred times); on a CPU only."""

        def ask(_: Any) -> bool:
            if wanted():
                aborted.set()
            return aborted.is_set()

        self._abort = llama_cpp.ggml_abort_callback(ask)  # C does not keep it for us
        llama_cpp.llama_set_abort_callback(self._context, self._abort, None)

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], slots: Sequence[int], outputs: Sequence[int]
    ) -> None:
        """Compute one batch. ``outputs`` are the indices whose logits are wanted, ascending.

        Raises:
            LlamaError: the batch was not computed; the KV cells of its sequences are in doubt.
        """
        self._batch.fill(tokens, positions, slots, outputs)
        with pulse.computing(len(tokens)):
            status = llama_cpp.llama_decode(self._context, self._batch.struct)
        if status != 0:
            aborted.clear()
            raise LlamaError(f"llama_decode failed with status {status}")

    def logits(self, rows: int) -> FloatArray:
        """Logits of the last batch's outputs, shape ``(rows, vocabulary)``: a view, valid until the next decode."""
        pointer = llama_cpp.llama_get_logits(self._context)
        return np.ctypeslib.as_array(
            ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), shape=(rows, self._vocabulary_size)
        )

    def forget(self, slot: int, *, since: int = 0) -> None:
        """Free the cells of a sequence, from the position ``since`` on. Recurrent models can only forget all."""
        llama_cpp.llama_memory_seq_rm(self._memory, slot, since, -1)

    def copy_range(self, slot: int, other: int, start: int, stop: int) -> None:
        """Let ``other`` have the positions from ``start`` up to ``stop`` of ``slot``, in the same cells. Split
        cells can't be shared: llama.cpp would end the process."""
        assert self.streams == 1, "sequences of split cells share none"
        llama_cpp.llama_memory_seq_cp(self._memory, slot, other, start, stop)

    def forget_all(self) -> None:
        llama_cpp.llama_memory_clear(self._memory, False)

    def positions(self, slot: int) -> tuple[int, int]:
        """The lowest and the highest position held for a sequence; −1 each when it has none."""
        return (
            int(llama_cpp.llama_memory_seq_pos_min(self._memory, slot)),
            int(llama_cpp.llama_memory_seq_pos_max(self._memory, slot)),
        )

    def read_state(self, slot: int) -> ByteArray:
        """What llama.cpp keeps of a sequence: a view into one reused buffer, valid until the next read (about 4 ms for
        1,024 tokens)."""
        size = llama_cpp.llama_state_seq_get_size(self._context, slot)
        if self._state.size < size:
            self._state = np.empty(size, np.uint8)
        written = llama_cpp.llama_state_seq_get_data(self._context, _pointer(self._state), size, slot)
        return self._state[:written]

    def write_state(self, slot: int, state: ByteArray) -> bool:
        """Replace a sequence by a state that was read. False: llama.cpp refused it, and the sequence is empty."""
        if llama_cpp.llama_state_seq_set_data(self._context, _pointer(state), state.size, slot) == state.size:
            return True
        self.forget(slot)
        return False


def _pointer(array: ByteArray) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
