"""``python -m tests.stuck_engine``: the engine, whose first call of llama.cpp for a prompt never comes back.

(Warming up takes a token or two.) Where it hangs is C, without Python's lock, as llama.cpp would: asleep in libc.
"""

import ctypes
import sys
from typing import Any

import llama_cpp

from inference.engine import __main__ as engine
from inference.engine.llama import pulse as pulses

_decode = llama_cpp.llama_decode
_PROMPT_TOKENS = 10


def decode(context: Any, batch: Any) -> Any:
    if batch.n_tokens >= _PROMPT_TOKENS:
        ctypes.CDLL(None).pause()
    return _decode(context, batch)


if __name__ == "__main__":
    llama_cpp.llama_decode = decode
    sys.modules[type(pulses).__module__]._LEAST_SECONDS = 0.2  # type: ignore[attr-defined]
    sys.exit(engine.main())
