"""llama-cpp-python's ``examples/server/server.py``, unchanged. Runs in an environment of its own.

``python examples_server.py SERVER_PY MODEL PORT THREADS SLOTS CONTEXT_TOKENS [CACHE_DIRECTORY CACHE_BYTES]``
"""

import json
import re
import runpy
import sys
import tempfile
from pathlib import Path
from typing import Any

script, model, port, threads, slots, context_tokens, *cache = sys.argv[1:]
sys.path.insert(0, str(Path(script).parent))

from llama_cpp import llama_cpp  # noqa: E402 - it lies beside the script

_default_parameters = llama_cpp.llama_model_default_params


def _without_repacking() -> Any:
    """As our engine does: weights that this build repacks for AMX crash on the first prefill (ldtilecfg faults), and
    the server has no setting for it."""
    parameters = _default_parameters()
    parameters.use_extra_bufts = False
    return parameters


if re.search(r"\bamx_int8\b", Path("/proc/cpuinfo").read_text()):
    llama_cpp.llama_model_default_params = _without_repacking

configuration: dict[str, Any] = {
    "server": {"port": int(port)},
    "model": {
        "path": model,
        "n_ctx": int(context_tokens),
        "n_seq_max": int(slots),
        "threads": int(threads),
        "threads_batch": int(threads),
        # As llama-server has its cells. In one space for all, the default, every token scans every used cell.
        "kv_unified": False,
    },
}
if cache:
    configuration["disk_cache"] = {"path": cache[0], "max_bytes": int(cache[1])}

with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
    file.write(json.dumps(configuration))
    file.flush()
    sys.argv = [script, "--config-file", file.name]
    runpy.run_path(script, run_name="__main__")
