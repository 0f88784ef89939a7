"""llama.cpp behind the few calls that the engine needs; the only file that imports ``llama_cpp``.

Nothing here is thread-safe except :meth:`Model.tokenize`, :meth:`Model.piece` and :meth:`Model.is_end`, which only read
the vocabulary. Importing takes about 0.15 s.
"""

import ctypes
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

_LOSSLESS_VOCABULARIES = (llama_cpp.LLAMA_VOCAB_TYPE_SPM, llama_cpp.LLAMA_VOCAB_TYPE_BPE)

_keep_alive: list[Any] = []
"""Callbacks handed to C must outlive it; ctypes does not hold them for us."""


class LlamaError(Exception):
    """llama.cpp refused; ``str()`` says what."""


def silence_native_log(sink: Callable[[str, str], None], verbose: bool) -> None:
    """Send llama.cpp's own log lines to ``sink(level, text)`` instead of the terminal.

    Its INFO is chatter to an operator, so it becomes DEBUG; without ``verbose`` only warnings and errors cross over.
    """
    levels = {1: "DEBUG", 2: "DEBUG", 3: "WARN", 4: "ERROR"}  # ggml_log_level: DEBUG, INFO, WARN, ERROR

    def receive(level: int, text: bytes, _user_data: Any) -> None:
        name = levels.get(level, "DEBUG")
        if verbose or name in ("WARN", "ERROR"):
            sink(name, text.decode("utf-8", "replace").rstrip())

    callback = llama_cpp.llama_log_callback(receive)
    _keep_alive.append(callback)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))


class Model:
    """Weights and vocabulary of one GGUF (memory-mapped)."""

    def __init__(self, files: Sequence[str], on_progress: Callable[[float], None]) -> None:
        """Load ``files`` (the shards in order).

        Raises:
            LlamaError: llama.cpp can't use the file; its log says why.
        """
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        # Weights repacked for AMX crash on the first prefill of more than a few tokens (ldtilecfg faults; llama.cpp of
        # llama-cpp-python 0.3.36 built by GCC 12 with -march=native). Without the extra buffer types it is exact.
        parameters.use_extra_bufts = not _cpu_has("amx_int8")

        def progress(fraction: float, _user_data: Any) -> bool:
            on_progress(fraction)
            return True

        parameters.progress_callback = llama_cpp.llama_progress_callback(progress)
        paths = (ctypes.c_char_p * len(files))(*(file.encode() for file in files))
        if len(files) == 1:
            self._model = llama_cpp.llama_model_load_from_file(files[0].encode(), parameters)
        else:
            self._model = llama_cpp.llama_model_load_from_splits(paths, len(files), parameters)
        if not self._model:
            raise LlamaError(f"llama.cpp can't load {Path(files[0]).name}")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.vocabulary_size: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.trained_context_tokens: int = llama_cpp.llama_model_n_ctx_train(self._model)
        self.has_decoder: bool = llama_cpp.llama_model_has_decoder(self._model)
        template = llama_cpp.llama_model_chat_template(self._model, None)
        self.chat_template: str | None = template.decode("utf-8", "replace") if template else None
        self.bos_text = self._special_text(llama_cpp.llama_vocab_bos(self._vocab))
        self.eos_text = self._special_text(llama_cpp.llama_vocab_eos(self._vocab))
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}
        self._longest_piece_bytes = 0

    def tokenize(self, text: str, *, add_special: bool) -> list[int]:
        """``text`` as tokens; special tokens written in it are recognised, as chat templates need.

        Args:
            add_special: put the tokens around it that the model was trained with (usually BOS).
        """
        raw = text.encode("utf-8", "replace")
        # Never more tokens than bytes, plus BOS, EOS and the space that some vocabularies put in front.
        room = len(raw) + 8
        tokens = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self._vocab, raw, len(raw), tokens, room, add_special, True)
        if count < 0:
            raise LlamaError("the text can't be tokenized")
        return tokens[:count]  # type: ignore[no-any-return]

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; nothing for control tokens. Maybe part of a character only."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._piece(token, special=False)
        return known

    def fewest_tokens(self, text_bytes: int) -> int:
        """What a text can't be tokenized into less than: no token stands for more bytes than the longest one.

        0 for vocabularies that drop some of their text (WordPiece, unigram). The first call looks at every token, which
        takes about 0.1 s for 49,152 of them.
        """
        if llama_cpp.llama_vocab_type(self._vocab) not in _LOSSLESS_VOCABULARIES:
            return 0
        if not self._longest_piece_bytes:
            pieces = (self._piece(token, special=True) for token in range(self.vocabulary_size))
            self._longest_piece_bytes = max(1, *map(len, pieces))
        return -(-text_bytes // self._longest_piece_bytes)

    def is_end(self, token: int) -> bool:
        """Whether the model ends its answer with this token (end of text, of turn, of message)."""
        known = self._ends.get(token)
        if known is None:
            known = self._ends[token] = bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))
        return known

    def create_context(
        self, *, tokens: int, sequences: int, unified: bool, batch_tokens: int, threads: int
    ) -> "Context":
        """KV cells for ``tokens``, and the compute buffers to go with them.

        Args:
            unified: one space of ``tokens`` cells that all sequences share, each attending over all that is used;
                else ``tokens / sequences`` cells for each.

        Raises:
            LlamaError: there is not enough memory for it.
        """
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = tokens
        parameters.n_seq_max = sequences
        parameters.kv_unified = unified
        parameters.n_batch = batch_tokens
        parameters.n_ubatch = batch_tokens
        parameters.n_threads = threads
        parameters.n_threads_batch = threads
        # With a window-sized cache the cells beyond the window are gone and a sequence can't move to another context.
        parameters.swa_full = True
        parameters.no_perf = True
        context = llama_cpp.llama_init_from_model(self._model, parameters)
        if not context:
            raise LlamaError(f"not enough memory for a context of {tokens} tokens")
        return Context(context, self.vocabulary_size, batch_tokens, sequences)

    def _piece(self, token: int, *, special: bool) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, room, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    def _special_text(self, token: int) -> str:
        return "" if token < 0 else self._piece(token, special=True).decode("utf-8", "replace")


class Context:
    """KV cells of some sequences, and the decoding over them."""

    def __init__(self, context: Any, vocabulary_size: int, batch_tokens: int, sequences: int) -> None:
        self._context = context
        self._memory = llama_cpp.llama_get_memory(context)
        self._vocabulary_size = vocabulary_size
        self._streams = sequences
        self._batch = _Batch(batch_tokens, sequences)

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], slots: Sequence[int], outputs: Sequence[int]
    ) -> None:
        """Compute one batch. ``outputs`` are the indices whose logits are wanted, ascending.

        Raises:
            LlamaError: the batch was not computed; the KV cells of its sequences are in doubt.
        """
        self._batch.fill(tokens, positions, slots, outputs)
        status = llama_cpp.llama_decode(self._context, self._batch.struct)
        if status != 0:
            raise LlamaError(f"llama_decode failed with status {status}")

    def logits(self, rows: int) -> FloatArray:
        """Logits of the last batch's outputs, shape ``(rows, vocabulary)``: a view, valid until the next decode."""
        pointer = llama_cpp.llama_get_logits(self._context)
        return np.ctypeslib.as_array(
            ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), shape=(rows, self._vocabulary_size)
        )

    def forget(self, slot: int) -> None:
        """Free the cells of a sequence."""
        llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def forget_all(self) -> None:
        llama_cpp.llama_memory_clear(self._memory, False)

    def last_position(self, slot: int) -> int:
        """The highest position held for a sequence; −1 when it has none."""
        return int(llama_cpp.llama_memory_seq_pos_max(self._memory, slot))

    def copy_sequence_to(self, other: "Context", slot: int, other_slot: int) -> bool:
        """Copy a sequence's state from these split cells to ``other``'s unified ones (about 3 ms for 1,024 tokens).

        Returns False, with nothing left behind in ``other``, when the copy does not hold all positions; the caller
        then computes the tokens again.
        """
        size = llama_cpp.llama_state_seq_get_size(self._context, slot)
        buffer = (ctypes.c_uint8 * size)()
        written = llama_cpp.llama_state_seq_get_data(self._context, buffer, size, slot)
        state = _as_one_stream(bytes(buffer[:written]), slot, self._streams)
        other.forget(other_slot)
        if state is not None:
            copy = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
            read = llama_cpp.llama_state_seq_set_data(other._context, copy, len(state), other_slot)
            if read == len(state) and other.last_position(other_slot) == self.last_position(slot):
                return True
        other.forget(other_slot)
        return False


def _as_one_stream(state: bytes, slot: int, streams: int) -> bytes | None:
    """The state of a sequence of a split cache as a unified cache writes it; None if it does not have the form we know.

    llama.cpp writes a magic number and the sequence's id, then the number of streams, then for each stream a cell count
    and, if that is not 0, the cells. In a split cache every sequence has a stream of its own, so all counts but the one
    at ``slot`` are 0. The form is internal to llama.cpp; a test proves on a real model that logits after such a copy
    are the same to the last bit, and whatever looks different here is computed again instead.
    """
    word = struct.Struct("<I")
    head = 2 * word.size
    before, behind = head + word.size * (1 + slot), word.size * (streams - 1 - slot)
    end = len(state) - behind
    known = (
        before < end
        and word.unpack_from(state, head)[0] == streams
        and not any(state[head + word.size : before])
        and not any(state[end:])
    )
    return state[:head] + word.pack(1) + state[before:end] if known else None


class _Batch:
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


def _cpu_has(flag: str) -> bool:
    try:
        return f" {flag} " in Path("/proc/cpuinfo").read_text().replace("\n", " ")
    except OSError:
        return False
