"""llama.cpp behind the few calls that the engine needs; only this package imports ``llama_cpp``.

Nothing here is thread-safe except :meth:`Model.tokenize`, :meth:`Model.piece` and :meth:`Model.is_end`, which only read
the vocabulary. Importing takes about 0.15 s.
"""

from inference.engine.llama.context import ByteArray, Context, FloatArray
from inference.engine.llama.embedding_context import EmbeddingContext, Pooling
from inference.engine.llama.model import ENCODERS, Model
from inference.engine.llama.native import BUILD, LlamaError, initialise, silence_native_log
from inference.engine.llama.pulse import pulse

__all__ = [
    "BUILD",
    "ENCODERS",
    "ByteArray",
    "Context",
    "EmbeddingContext",
    "FloatArray",
    "LlamaError",
    "Model",
    "Pooling",
    "initialise",
    "pulse",
    "silence_native_log",
]
