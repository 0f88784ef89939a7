"""What this is and what it runs on."""

import platform
from importlib import metadata

VERSION = "0.1.0"
"""``pyproject.toml`` says the same."""


def build() -> dict[str, str]:
    """Names and versions, for metrics."""
    return {
        "version": VERSION,
        "python": platform.python_version(),
        "llama_cpp_python": metadata.version("llama-cpp-python"),
    }
