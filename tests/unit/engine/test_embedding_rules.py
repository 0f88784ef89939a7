"""What registry and engine must say alike of embedding models."""

from inference.engine import llama
from registry.gguf.capabilities import ENCODERS


def test_registry_and_engine_know_the_same_encoders() -> None:
    """They can't import one another: a model listed as an encoder must be run as one."""
    assert llama.ENCODERS == ENCODERS
