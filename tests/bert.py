"""BERT's forward pass in numpy, written after the paper and independent of llama.cpp, on :mod:`gguf_files`' weights.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", 2018;
its layers are those of Vaswani et al., 2017.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tests.gguf_files import ENCODER_EPSILON, ENCODER_HEADS

Array = NDArray[np.float64]


def token_vectors(weights: Mapping[str, NDArray[np.float32]], tokens: Sequence[int], layers: int) -> Array:
    """The last layer's vector of each token, shape ``(tokens, width)``."""
    tensors = {name: values.astype(np.float64) for name, values in weights.items()}
    hidden = tensors["token_embd.weight"][list(tokens)]
    hidden = hidden + tensors["token_types.weight"][0] + tensors["position_embd.weight"][: len(tokens)]
    hidden = _norm(tensors, "token_embd_norm", hidden)
    for layer in range(layers):
        block = f"blk.{layer}"
        hidden = _norm(tensors, f"{block}.attn_output_norm", hidden + _attention(tensors, block, hidden))
        inner = _gelu(_linear(tensors, f"{block}.ffn_up", hidden))
        hidden = _norm(tensors, f"{block}.layer_output_norm", hidden + _linear(tensors, f"{block}.ffn_down", inner))
    return hidden


def _attention(tensors: Mapping[str, Array], block: str, hidden: Array) -> Array:
    count, width = hidden.shape
    size = width // ENCODER_HEADS
    queries, keys, values = (
        _linear(tensors, f"{block}.attn_{name}", hidden).reshape(count, ENCODER_HEADS, size).transpose(1, 0, 2)
        for name in "qkv"
    )
    scores = queries @ keys.transpose(0, 2, 1) / math.sqrt(size)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = scores / scores.sum(axis=-1, keepdims=True) @ values
    return _linear(tensors, f"{block}.attn_output", mixed.transpose(1, 0, 2).reshape(count, width))


def _linear(tensors: Mapping[str, Array], name: str, inputs: Array) -> Array:
    product: Array = inputs @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]
    return product


def _norm(tensors: Mapping[str, Array], name: str, inputs: Array) -> Array:
    centred = inputs - inputs.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + ENCODER_EPSILON)
    scaled: Array = centred / deviation * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]
    return scaled


def _gelu(inputs: Array) -> Array:
    below: Array = (1 + np.vectorize(math.erf)(inputs / math.sqrt(2))) / 2
    return inputs * below
