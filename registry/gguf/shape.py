"""How wide and deep a model is, as far as memory depends on it."""

from dataclasses import dataclass, field

from registry.gguf.walker import MAX_ARRAY_NUMBERS, Value

_VOCABULARY = "tokenizer.ggml.tokens"
_BY_LAYER = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
_MOST = 1 << 31
"""No width of any model is larger; a file that says so says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """0 where the file does not say."""

    layers: int = 0
    embedding: int = 0
    feed_forward: int = 0
    heads: int = 0
    """That attend, in the layer with the most of them."""
    vocabulary: int = 0
    key_elements: int = 0
    """Numbers of a token's keys, over all layers."""
    value_elements: int = 0
    state_elements: int = 0
    """Numbers that recurrent layers keep of a whole sequence."""


NO_SHAPE = Shape()


@dataclass(slots=True)
class Arrays:
    """What is kept of a file's arrays, by their keys."""

    numbers: dict[str, tuple[Value, ...]] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)

    def add(self, key: str, numbers: tuple[Value, ...], length: int) -> None:
        if numbers:
            self.numbers[key] = numbers
        self.lengths[key] = length


def is_shape(key: str) -> bool:
    """Whether an array of this name tells something for each layer."""
    return key.endswith(_BY_LAYER)


def shape_of(architecture: str, values: dict[str, Value], arrays: Arrays) -> Shape:
    """As llama.cpp reads it (``llama_model::load_hparams``): heads may differ from layer to layer, a layer without
    heads for keys and values has no rows, and heads are as wide as the embedding divided by them unless it is said."""
    reader = _Reader(architecture, values, arrays)
    layers = reader.whole("block_count")
    heads = reader.by_layer("attention.head_count", layers)
    key_heads = reader.by_layer("attention.head_count_kv", layers) or heads
    embedding = reader.whole("embedding_length")
    most_heads = max(heads, default=0)
    wide = embedding // most_heads if most_heads else 0
    return Shape(
        layers=layers,
        embedding=embedding,
        feed_forward=max(reader.by_layer("feed_forward_length", layers), default=0),
        heads=most_heads,
        vocabulary=arrays.lengths.get(_VOCABULARY, 0) or reader.whole("vocab_size"),
        key_elements=sum(key_heads) * (reader.whole("attention.key_length") or wide),
        value_elements=sum(key_heads) * (reader.whole("attention.value_length") or wide),
        state_elements=_state_elements(reader, key_heads, layers),
    )


def _state_elements(reader: "_Reader", key_heads: tuple[int, ...], layers: int) -> int:
    """Of Mamba's kind: what its convolution looks back at, and its state, in each layer without rows; in all of them
    where each layer has both."""
    inner, state = reader.whole("ssm.inner_size"), reader.whole("ssm.state_size")
    back = max(0, reader.whole("ssm.conv_kernel") - 1) * (inner + 2 * reader.whole("ssm.group_count") * state)
    without_rows = sum(not heads for heads in key_heads)
    return (back + inner * state) * (without_rows or layers)


class _Reader:
    def __init__(self, architecture: str, values: dict[str, Value], arrays: Arrays) -> None:
        self._architecture = architecture
        self._values = values
        self._arrays = arrays

    def whole(self, name: str) -> int:
        return _whole(self._values.get(f"{self._architecture}.{name}"))

    def by_layer(self, name: str, layers: int) -> tuple[int, ...]:
        """One number a layer; nothing where the file does not say."""
        key = f"{self._architecture}.{name}"
        if numbers := self._arrays.numbers.get(key):
            return tuple(map(_whole, numbers))
        return (self.whole(name),) * min(layers, MAX_ARRAY_NUMBERS) if key in self._values else ()


def _whole(value: Value | None) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _MOST:
        return 0
    return value
