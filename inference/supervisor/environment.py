"""What a worker gets of our environment."""

from collections.abc import Mapping

_ALLOWED = ("PATH", "HOME", "USER", "LANG", "LANGUAGE", "TZ", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LD_PRELOAD")
_ALLOWED_PREFIXES = (
    "LC_",
    "PYTHON",
    "OMP_",
    "GOMP_",
    "KMP_",
    "MALLOC_",
    "GGML_",
    "LLAMA_",
    "CUDA_",
    "NVIDIA_",
    "HIP_",
    "ROCR_",
    "HSA_",
    "VK_",
)


def worker_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Only what a process that computes needs, by name: a list of secrets to leave out would always miss one.

    OpenMP's wait policy stays the runtime's own, which spins for a few milliseconds, then sleeps: with ``passive`` a
    decode step of SmolLM2-135M took 35 instead of 5.3 ms, and with ``active`` the threads of idle models never rest.
    """
    return {
        **{name: value for name, value in variables.items() if _allowed(name)},
        # A failed assertion would start a debugger and leave the worker hanging in it.
        "GGML_NO_BACKTRACE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _allowed(name: str) -> bool:
    return name in _ALLOWED or name.startswith(_ALLOWED_PREFIXES)
