"""GGUFs for tests, written in milliseconds: tiny random models that llama.cpp really loads, and broken files.

The models talk nonsense, but through every part that a real one uses: a vocabulary with bytes and control tokens, a
chat template, attention and feed-forward layers. The same arguments give the same bytes; ``seed`` changes the weights
and nothing else, so it makes other content with an equal header.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATML_WITH_TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}" + CHATML

_WIDTH = 32
_HEADS = 2
_FEED_FORWARD = 64
_INNER, _STATE, _KERNEL, _RANK = 2 * _WIDTH, 8, 4, 4
"""Of a Mamba layer."""
ENCODER_EPSILON = 1e-5
ENCODER_HEADS = _HEADS

WORD_PIECE_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORDS = ("the", "cat", "sat", "on", "mat", "a", "dog", "ran", "and", "king", "queen", "hello", "world", ",", ".", "!")
_WORD_ENDS = ("s", "ing", "ed", "ly")
"""Pieces that go on with a word; what begins one is written with a ▁, as llama.cpp's converter does."""

Tensors = Iterable[tuple[str, NDArray[np.float32]]]


def write_model(
    path: Path,
    *,
    name: str = "Tiny",
    architecture: str = "llama",
    context_length: int = 512,
    chat_template: str | None = CHATML,
    tokenizer: bool = True,
    pooling: gguf.PoolingType | None = None,
    file_type: gguf.LlamaFileType | None = gguf.LlamaFileType.ALL_F32,
    kind: str | None = None,
    layers: int = 2,
    seed: int = 0,
    pad_to_bytes: int = 0,
    words: int = 0,
) -> Path:
    """A whole model in one file of about 200 KB, or ``pad_to_bytes`` if that is more (the rest is zeros).

    ``words``: its vocabulary says to have so many; then it is for what reads headers only.

    Only ``architecture="llama"`` loads; others are for what reads headers. :func:`write_encoder` makes encoders.
    """
    writer = _writer(path, architecture)
    writer.add_name(name)
    if kind is not None:
        writer.add_type(kind)
    if file_type is not None:
        writer.add_file_type(file_type)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    _add_shape(writer, context_length=context_length, layers=layers)
    if tokenizer:
        _add_tokenizer(writer, chat_template, words)
    _finish(writer, _tensors(layers, seed))
    _pad(path, pad_to_bytes)
    return path


def write_shards(folder: Path, stem: str, count: int, *, name: str = "Tiny", seed: int = 0) -> list[Path]:
    """The same model in ``count`` files, as llama.cpp's gguf-split writes them."""
    tensors = list(_tensors(2, seed))
    paths = [folder / f"{stem}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]
    for number, path in enumerate(paths):
        writer = _writer(path, "llama")
        if number == 0:
            writer.add_name(name)
            writer.add_file_type(gguf.LlamaFileType.ALL_F32)
            _add_shape(writer, context_length=512, layers=2)
            _add_tokenizer(writer, CHATML)
        else:  # only the first shard says what the model is
            writer.kv_data[0].pop("general.architecture")
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(tensors))
        _finish(writer, tensors[number::count])
    return paths


def write_encoder(
    path: Path,
    *,
    architecture: str = "bert",
    context_length: int = 64,
    pooling: gguf.PoolingType | None = gguf.PoolingType.MEAN,
    layers: int = 2,
    seed: int = 0,
) -> Path:
    """A text encoder with a WordPiece vocabulary: ``bert`` or ``nomic-bert`` (rotary positions, gated feed-forward)."""
    writer = _writer(path, architecture)
    writer.add_name("Tiny encoder")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(context_length)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_layer_norm_eps(ENCODER_EPSILON)
    writer.add_causal_attention(False)
    if architecture == "nomic-bert":
        writer.add_rope_freq_base(1000.0)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    _add_word_pieces(writer)
    _finish(writer, encoder_tensors(architecture, context_length, layers, seed).items())
    return path


def write_projector(path: Path) -> Path:
    """The vision part of some model."""
    writer = _writer(path, "clip")
    writer.add_type("mmproj")
    _finish(writer, [("v.patch_embd.weight", np.zeros((4, 4), dtype=np.float32))])
    return path


def write_truncated(path: Path, *, keep_bytes: int | None = None) -> Path:
    """A model whose end is missing: by default a byte of its last tensor."""
    write_model(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1 if keep_bytes is None else keep_bytes)
    return path


def write_text(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("This is not a model.\n" * 20)
    return path


def write_empty(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def _writer(path: Path, architecture: str) -> gguf.GGUFWriter:
    path.parent.mkdir(parents=True, exist_ok=True)
    return gguf.GGUFWriter(path, architecture)


def _add_shape(writer: gguf.GGUFWriter, *, context_length: int, layers: int) -> None:
    writer.add_context_length(context_length)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)


def _add_tokenizer(writer: gguf.GGUFWriter, chat_template: str | None, words: int = 0) -> None:
    known = list(_vocabulary())
    more = ((f"▁word{number}", gguf.TokenType.NORMAL) for number in range(words - len(known)))
    tokens, kinds = zip(*known, *more, strict=True)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0 if kind != gguf.TokenType.NORMAL else -float(i) for i, kind in enumerate(kinds)])
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    if chat_template is not None:
        writer.add_chat_template(chat_template)


def _vocabulary() -> Iterator[tuple[str, gguf.TokenType]]:
    yield "<unk>", gguf.TokenType.UNKNOWN
    yield "<s>", gguf.TokenType.CONTROL
    yield "</s>", gguf.TokenType.CONTROL
    yield "<|im_start|>", gguf.TokenType.CONTROL
    yield "<|im_end|>", gguf.TokenType.CONTROL
    for byte in range(256):
        yield f"<0x{byte:02X}>", gguf.TokenType.BYTE
    for word in ("▁the", "▁a", "▁model", "▁says", "▁hello", "er", "in", "on", "al", "سلام", "🙂"):
        yield word, gguf.TokenType.NORMAL
    for letter in "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?":
        yield letter, gguf.TokenType.NORMAL


def _add_word_pieces(writer: gguf.GGUFWriter) -> None:
    tokens = [*WORD_PIECE_SPECIALS, *(f"▁{word}" for word in _WORDS), *_WORD_ENDS]
    control = len(WORD_PIECE_SPECIALS)
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * control + [gguf.TokenType.NORMAL] * (len(tokens) - control))
    writer.add_token_type_count(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_mask_token_id(4)


def encoder_tensors(architecture: str, context_length: int, layers: int, seed: int) -> dict[str, NDArray[np.float32]]:
    """The weights of :func:`write_encoder`'s model, by their names."""
    random = np.random.default_rng(seed)
    words = len(WORD_PIECE_SPECIALS) + len(_WORDS) + len(_WORD_ENDS)

    def weights(*shape: int, around: float = 0.0) -> NDArray[np.float32]:
        return random.normal(around, 0.3, shape).astype(np.float32)

    def norm(name: str) -> dict[str, NDArray[np.float32]]:
        return {f"{name}.weight": weights(_WIDTH, around=1.0), f"{name}.bias": weights(_WIDTH)}

    tensors = {"token_embd.weight": weights(words, _WIDTH), "token_types.weight": weights(2, _WIDTH)}
    tensors |= norm("token_embd_norm")
    if architecture == "bert":
        tensors["position_embd.weight"] = weights(context_length, _WIDTH)
    for layer in range(layers):
        block = f"blk.{layer}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors[f"{block}.{name}.weight"] = weights(_WIDTH, _WIDTH)
            if architecture == "bert":
                tensors[f"{block}.{name}.bias"] = weights(_WIDTH)
        tensors |= norm(f"{block}.attn_output_norm") | norm(f"{block}.layer_output_norm")
        tensors[f"{block}.ffn_up.weight"] = weights(_FEED_FORWARD, _WIDTH)
        tensors[f"{block}.ffn_down.weight"] = weights(_WIDTH, _FEED_FORWARD)
        if architecture == "bert":
            tensors |= {f"{block}.ffn_up.bias": weights(_FEED_FORWARD), f"{block}.ffn_down.bias": weights(_WIDTH)}
        else:
            tensors[f"{block}.ffn_gate.weight"] = weights(_FEED_FORWARD, _WIDTH)
    return tensors


def _tensors(layers: int, seed: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    random = np.random.default_rng(seed)
    words = sum(1 for _ in _vocabulary())

    def weights(*shape: int) -> NDArray[np.float32]:
        return random.normal(0, 0.3, shape).astype(np.float32)

    yield "token_embd.weight", weights(words, _WIDTH)
    for layer in range(layers):
        yield f"blk.{layer}.attn_norm.weight", np.ones(_WIDTH, dtype=np.float32)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield f"blk.{layer}.{name}.weight", weights(_WIDTH, _WIDTH)
        yield f"blk.{layer}.ffn_norm.weight", np.ones(_WIDTH, dtype=np.float32)
        yield f"blk.{layer}.ffn_gate.weight", weights(_FEED_FORWARD, _WIDTH)
        yield f"blk.{layer}.ffn_up.weight", weights(_FEED_FORWARD, _WIDTH)
        yield f"blk.{layer}.ffn_down.weight", weights(_WIDTH, _FEED_FORWARD)
    yield "output_norm.weight", np.ones(_WIDTH, dtype=np.float32)
    yield "output.weight", weights(words, _WIDTH)


def _finish(writer: gguf.GGUFWriter, tensors: Tensors) -> None:
    for name, values in tensors:
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _pad(path: Path, size_bytes: int) -> None:
    """Zeros after the last tensor are no part of the model, but of its size."""
    if path.stat().st_size < size_bytes:
        with path.open("r+b") as file:
            file.truncate(size_bytes)


def write_sliding(path: Path, *, window: int = 16, context_length: int = 512, layers: int = 6, seed: int = 0) -> Path:
    """A gemma3-type decoder: five of six layers see ``window`` tokens back only."""
    writer = _writer(path, "gemma3")
    writer.add_name("Sliding")
    _add_shape(writer, context_length=context_length, layers=layers)
    writer.add_key_length(_WIDTH // _HEADS)
    writer.add_value_length(_WIDTH // _HEADS)
    writer.add_sliding_window(window)
    writer.add_rope_freq_base(10_000.0)
    _add_tokenizer(writer, CHATML)
    head = np.ones(_WIDTH // _HEADS, dtype=np.float32)
    wide = np.ones(_WIDTH, dtype=np.float32)
    tensors = dict(_tensors(layers, seed))
    for layer in range(layers):
        tensors |= {f"blk.{layer}.{name}.weight": head for name in ("attn_q_norm", "attn_k_norm")}
        tensors |= {f"blk.{layer}.{name}.weight": wide for name in ("post_attention_norm", "post_ffw_norm")}
    _finish(writer, tensors.items())
    return path


def write_recurrent(path: Path, *, context_length: int = 512, layers: int = 2, seed: int = 0) -> Path:
    """A Mamba-type decoder: what it remembers of a text is one state, not a row for each token."""
    writer = _writer(path, "mamba")
    writer.add_name("Recurrent")
    writer.add_context_length(context_length)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_layer_norm_rms_eps(1e-5)
    _add_state_space(writer)
    _add_tokenizer(writer, CHATML)
    random = np.random.default_rng(seed)
    tensors = {"token_embd.weight": _weights(random, sum(1 for _ in _vocabulary()), _WIDTH)}
    for layer in range(layers):
        tensors[f"blk.{layer}.attn_norm.weight"] = np.ones(_WIDTH, dtype=np.float32)
        tensors |= _state_space(f"blk.{layer}", random)
    tensors["output_norm.weight"] = np.ones(_WIDTH, dtype=np.float32)
    _finish(writer, tensors.items())
    return path


def write_hybrid(path: Path, *, context_length: int = 512, layers: int = 4, seed: int = 0) -> Path:
    """A Jamba-type decoder: every second layer attends to all tokens, the others are Mamba's."""
    writer = _writer(path, "jamba")
    writer.add_name("Hybrid")
    writer.add_context_length(context_length)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv([_HEADS * (layer % 2) for layer in range(layers)])
    writer.add_layer_norm_rms_eps(1e-5)
    _add_state_space(writer)
    _add_tokenizer(writer, CHATML)
    random = np.random.default_rng(seed)
    tensors = dict(_tensors(layers, seed))
    for layer in range(0, layers, 2):
        block = f"blk.{layer}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            del tensors[f"{block}.{name}.weight"]
        tensors |= _state_space(block, random)
        norms = {"ssm_dt_norm": _RANK, "ssm_b_norm": _STATE, "ssm_c_norm": _STATE}
        tensors |= {f"{block}.{name}.weight": np.ones(size, dtype=np.float32) for name, size in norms.items()}
    _finish(writer, tensors.items())
    return path


def _add_state_space(writer: gguf.GGUFWriter) -> None:
    writer.add_ssm_conv_kernel(_KERNEL)
    writer.add_ssm_inner_size(_INNER)
    writer.add_ssm_state_size(_STATE)
    writer.add_ssm_time_step_rank(_RANK)


def _state_space(block: str, random: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """The weights of one Mamba layer."""
    return {
        f"{block}.ssm_in.weight": _weights(random, 2 * _INNER, _WIDTH),
        f"{block}.ssm_conv1d.weight": _weights(random, _INNER, _KERNEL),
        f"{block}.ssm_conv1d.bias": _weights(random, _INNER),
        f"{block}.ssm_x.weight": _weights(random, _RANK + 2 * _STATE, _INNER),
        f"{block}.ssm_dt.weight": _weights(random, _INNER, _RANK),
        f"{block}.ssm_dt.bias": _weights(random, _INNER),
        f"{block}.ssm_a": -np.abs(_weights(random, _INNER, _STATE)),
        f"{block}.ssm_d": _weights(random, _INNER),
        f"{block}.ssm_out.weight": _weights(random, _WIDTH, _INNER),
    }


def _weights(random: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return random.normal(0, 0.3, shape).astype(np.float32)
