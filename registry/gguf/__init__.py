"""GGUF headers: what a file says about the model in it. Pure but for :func:`read_header`, which opens a file."""

from registry.gguf.capabilities import capabilities
from registry.gguf.errors import GgufError, Incomplete, Invalid, Unreadable
from registry.gguf.header import GgufHeader, missing, parse, read_header
from registry.gguf.shape import NO_SHAPE, Shape

__all__ = [
    "NO_SHAPE",
    "GgufError",
    "GgufHeader",
    "Incomplete",
    "Invalid",
    "Shape",
    "Unreadable",
    "capabilities",
    "missing",
    "parse",
    "read_header",
]
