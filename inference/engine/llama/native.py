"""llama.cpp's library itself: its build, its log, how it fails."""

import ctypes
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import llama_cpp

BUILD = f"{llama_cpp.__version__} {llama_cpp.llama_print_system_info().decode()}"
"""The version of llama.cpp's binding, and what of this CPU it uses: both change the numbers that it computes."""

_keep_alive: list[Any] = []
"""Callbacks handed to C must outlive it; ctypes does not hold them for us."""


complaints: deque[str] = deque(maxlen=8)
"""llama.cpp's warnings and errors since the last call that may fail: it returns nothing and logs the reason."""


aborted = threading.Event()
"""A decode ends because it was asked to: what llama.cpp says of it is no error."""


class LlamaError(Exception):
    """llama.cpp refused; ``str()`` says what."""


def initialise() -> None:
    """What llama.cpp needs before any model. Harmless when repeated."""
    llama_cpp.llama_backend_init()


def silence_native_log(sink: Callable[[str, str], None], verbose: bool) -> None:
    """Send llama.cpp's own log lines to ``sink(level, text)`` instead of the terminal.

    Its INFO is chatter to an operator, so it becomes DEBUG; without ``verbose`` only warnings and errors cross over.
    """
    levels = {1: "DEBUG", 2: "DEBUG", 3: "WARN", 4: "ERROR"}  # ggml_log_level: DEBUG, INFO, WARN, ERROR

    def receive(level: int, text: bytes, _user_data: Any) -> None:
        name = "DEBUG" if aborted.is_set() else levels.get(level, "DEBUG")
        if name in ("WARN", "ERROR") and text.strip():
            complaints.append(text.decode("utf-8", "replace").strip())
        if verbose or name in ("WARN", "ERROR"):
            sink(name, text.decode("utf-8", "replace").rstrip())

    callback = llama_cpp.llama_log_callback(receive)
    _keep_alive.append(callback)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
