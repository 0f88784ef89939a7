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

    OpenMP's threads meet some hundred times in every decode step, and wait for each other by spinning, then sleeping.
    GNU's default spins for up to 13 ms: alone on two cores SmolLM2-135M gives 77 tokens/s, beside one other busy
    process less than 4, since a thread spins away the time that the one it waits for would need. 2,000 rounds are
    about 100 µs, longer than most waits between threads that run. Fewer sleep where the other is about to come (1,000:
    2 % slower alone, 5 % with four streams), more help a neighbour less (tokens/s of one stream beside a busy process:
    1,000 rounds 23, 3,000 16, 10,000 7). ``OMP_WAIT_POLICY=passive``, which never spins, took 35 ms a step. An
    operator's own setting wins.
    """
    return {
        "GOMP_SPINCOUNT": "2000",
        **{name: value for name, value in variables.items() if _allowed(name)},
        # A failed assertion would start a debugger and leave the worker hanging in it.
        "GGML_NO_BACKTRACE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _allowed(name: str) -> bool:
    return name in _ALLOWED or name.startswith(_ALLOWED_PREFIXES)
