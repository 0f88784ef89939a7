"""Weights and vocabulary of one GGUF, and what is made of them."""

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import llama_cpp

from inference.engine.llama.context import Context
from inference.engine.llama.embedding_context import EmbeddingContext, Pooling
from inference.engine.llama.native import LlamaError, complaints, initialise
from inference.memory import bounded_by_available
from inference.protocol import EngineParameters

_LOSSLESS_VOCABULARIES = (llama_cpp.LLAMA_VOCAB_TYPE_SPM, llama_cpp.LLAMA_VOCAB_TYPE_BPE)

ENCODERS = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "llama-embed",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "t5encoder",
    }
)
"""Architectures whose tokens attend to later ones, too. Not all say so in their metadata."""

_FLASH_ATTENTION = {
    None: llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
_KV_TYPES = {
    "f32": llama_cpp.GGML_TYPE_F32,
    "f16": llama_cpp.GGML_TYPE_F16,
    "bf16": 30,  # GGML_TYPE_BF16, which the binding has no name for
    "q8_0": llama_cpp.GGML_TYPE_Q8_0,
    "q5_1": llama_cpp.GGML_TYPE_Q5_1,
    "q5_0": llama_cpp.GGML_TYPE_Q5_0,
    "q4_1": llama_cpp.GGML_TYPE_Q4_1,
    "q4_0": llama_cpp.GGML_TYPE_Q4_0,
    "iq4_nl": llama_cpp.GGML_TYPE_IQ4_NL,
}


class Model:
    """Weights and vocabulary of one GGUF (memory-mapped)."""

    def __init__(
        self,
        files: Sequence[str],
        on_progress: Callable[[float], None],
        parameters: EngineParameters = EngineParameters(),  # noqa: B008 - it is frozen
    ) -> None:
        """Load ``files`` (the shards in order).

        Args:
            parameters: of them, those that have to do with the model and how its contexts compute.

        Raises:
            LlamaError: llama.cpp can't use the file; its log says why.
        """
        self.parameters = parameters
        self._model = _load(files, on_progress, parameters)
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.vocabulary_size: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.window_tokens: int = llama_cpp.llama_model_n_swa(self._model)
        """The sliding window of some of its layers; 0: none has one."""
        self.trained_context_tokens: int = llama_cpp.llama_model_n_ctx_train(self._model)
        self.hybrid: bool = llama_cpp.llama_model_is_hybrid(self._model)
        """Some of its layers keep one state of all that was read, others a row for each token."""
        self.recurrent: bool = self.hybrid or llama_cpp.llama_model_is_recurrent(self._model)
        """Some of its layers, or all, keep one state of all that was read, instead of a row for each token."""
        self.has_decoder: bool = llama_cpp.llama_model_has_decoder(self._model)
        architecture = self._metadata("general.architecture")
        self.attends_both_ways: bool = (
            not self.has_decoder
            or architecture in ENCODERS
            or self._metadata(f"{architecture}.attention.causal") == "false"
        )
        """Each token sees the whole input: it makes embeddings and can't go on with a text."""
        self.pooling = _pooling(self._metadata(f"{architecture}.pooling_type"))
        """None: its GGUF says nothing of it."""
        self.embedding_width: int = llama_cpp.llama_model_n_embd_out(self._model)
        template = llama_cpp.llama_model_chat_template(self._model, None)
        self.chat_template: str | None = template.decode("utf-8", "replace") if template else None
        self.bos_text = self._special_text(llama_cpp.llama_vocab_bos(self._vocab))
        self.eos_text = self._special_text(llama_cpp.llama_vocab_eos(self._vocab))
        self.infill_tokens = _infill_tokens(self._vocab)
        """What stands before the text in front of a gap, before the text behind it, and before what fills it; None:
        the model was not trained to fill gaps."""
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
        self,
        *,
        tokens: int,
        sequences: int,
        unified: bool,
        batch_tokens: int,
        threads: int,
        flash_attention: Literal["on", "off"] | None = None,
        micro_batch_tokens: int | None = None,
    ) -> "Context":
        """KV cells for ``tokens``, and the compute buffers to go with them.

        Args:
            unified: one space of ``tokens`` cells that all sequences share, each attending over all that is used;
                else ``tokens / sequences`` cells for each.
            flash_attention: None: as the model's parameters say, else our choice.
            micro_batch_tokens: so many are computed at a time; None: the whole batch. Without flash attention a context
                has room for the scores of as many tokens against all its cells, in every head.

        Raises:
            LlamaError: there is not enough memory for it, or the model's parameters do not go with it.
        """
        options = self._context_options(tokens, sequences, batch_tokens, threads)
        options.kv_unified = unified
        options.n_ubatch = min(batch_tokens, micro_batch_tokens or batch_tokens)
        options.flash_attn_type = _FLASH_ATTENTION[flash_attention or self._flash_attention()]
        if self.parameters.kv_type is not None:
            options.type_k = options.type_v = _KV_TYPES[self.parameters.kv_type]
        context = self._init(options, f"a context of {tokens} tokens")
        return Context(context, self.vocabulary_size, batch_tokens, sequences, streams=1 if unified else sequences)

    def _flash_attention(self) -> Literal["on", "off"] | None:
        """Off where a CPU computes: behind 900 tokens a step of SmolLM2-135M took 24 ms with it and 15 without, behind
        800 tokens each one of 16 sequences 210 and 124. Quantized V needs it, and a GPU is llama.cpp's to judge."""
        parameters = self.parameters
        plain = parameters.kv_type in (None, "f32", "f16", "bf16") and not parameters.n_gpu_layers
        return parameters.flash_attention or ("off" if plain else None)

    def create_embedding_context(
        self, *, tokens: int, sequences: int, batch_tokens: int, pooling: Pooling, threads: int
    ) -> "EmbeddingContext":
        """What embeddings are computed in: cells for ``tokens`` (encoders keep none), and the compute buffers.

        Raises:
            LlamaError: there is not enough memory for it.
        """
        options = self._context_options(tokens, sequences, batch_tokens, threads)
        options.kv_unified = True
        options.embeddings = True
        options.pooling_type = pooling.value
        context = self._init(options, f"embeddings of {tokens} tokens")
        return EmbeddingContext(
            context,
            batch_tokens=batch_tokens,
            sequences=sequences,
            width=self.embedding_width,
            encodes=not self.has_decoder,
        )

    def _context_options(self, tokens: int, sequences: int, batch_tokens: int, threads: int) -> Any:
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = tokens
        options.n_seq_max = sequences
        options.n_batch = batch_tokens
        options.n_ubatch = batch_tokens
        options.n_threads = threads
        options.n_threads_batch = threads
        options.rope_freq_base = self.parameters.rope_freq_base or 0.0  # 0: as the model says
        options.rope_freq_scale = self.parameters.rope_freq_scale or 0.0
        # With a window-sized cache the cells beyond the window are gone and a sequence can't move to another context.
        options.swa_full = True
        options.no_perf = True
        return options

    def _init(self, options: Any, what: str) -> Any:
        complaints.clear()
        with bounded_by_available():
            context = llama_cpp.llama_init_from_model(self._model, options)
        if not context:
            reason = f": {complaints[-1]}" if complaints else ""
            raise LlamaError(f"llama.cpp refuses {what}, for want of memory or because of the parameters{reason}")
        return context

    def _metadata(self, key: str) -> str | None:
        """A value of the GGUF as text; texts are cut at 255 bytes."""
        buffer = ctypes.create_string_buffer(256)
        found = llama_cpp.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer)) >= 0
        return buffer.value.decode("utf-8", "replace") if found else None

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


def _load(files: Sequence[str], on_progress: Callable[[float], None], parameters: EngineParameters) -> Any:
    initialise()
    options = llama_cpp.llama_model_default_params()
    if parameters.n_gpu_layers is not None:
        options.n_gpu_layers = parameters.n_gpu_layers
    # Weights repacked for AMX crash on the first prefill of more than a few tokens (ldtilecfg faults; llama.cpp of
    # llama-cpp-python 0.3.36 built by GCC 12 with -march=native). Without the extra buffer types it is exact.
    options.use_extra_bufts = not _cpu_has("amx_int8")

    def progress(fraction: float, _user_data: Any) -> bool:
        on_progress(fraction)
        return True

    options.progress_callback = llama_cpp.llama_progress_callback(progress)
    if len(files) == 1:
        model = llama_cpp.llama_model_load_from_file(files[0].encode(), options)
    else:
        paths = (ctypes.c_char_p * len(files))(*(file.encode() for file in files))
        model = llama_cpp.llama_model_load_from_splits(paths, len(files), options)
    if not model:
        raise LlamaError(f"llama.cpp can't load {Path(files[0]).name}")
    return model


def _infill_tokens(vocab: Any) -> tuple[int, int, int] | None:
    before = llama_cpp.llama_vocab_fim_pre(vocab)
    behind = llama_cpp.llama_vocab_fim_suf(vocab)
    middle = llama_cpp.llama_vocab_fim_mid(vocab)
    return (before, behind, middle) if min(before, behind, middle) >= 0 else None


def _pooling(number: str | None) -> Pooling | None:
    try:
        return None if number is None else Pooling(int(number))
    except ValueError:
        return None


def _cpu_has(flag: str) -> bool:
    try:
        return f" {flag} " in Path("/proc/cpuinfo").read_text().replace("\n", " ")
    except OSError:
        return False
