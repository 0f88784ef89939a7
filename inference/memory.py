"""How much memory this process may still take, its cgroup's limit included, and giving back what it took."""

import ctypes
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_OWN = Path("/proc/self/status")

_KEPT_FREE_PART = 16
"""One part in so many of what is available is not given to one process: the kernel and the others need it, too."""


def available_bytes() -> int:
    """What could be used without swapping: the kernel's own estimate, or the cgroup's head room if that is less."""
    machine = _listed(_MEMINFO, "MemAvailable:")
    limit, used = _number("memory.max"), _number("memory.current")
    return machine if limit is None or used is None else min(machine, max(0, limit - used))


def total_bytes() -> int:
    """What there would be if nothing were used: the machine's, or the cgroup's limit if that is less."""
    machine, limit = _listed(_MEMINFO, "MemTotal:"), _number("memory.max")
    return machine if limit is None else min(machine, limit)


@contextmanager
def bounded_by_available() -> Iterator[None]:
    """Within it an allocation of more than nearly all of :func:`available_bytes` fails, for all threads of this
    process. Linux grants whatever it is asked for, and ends a process that then uses what is not there.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    available = available_bytes()
    bound = _listed(_OWN, "VmData:") + available - available // _KEPT_FREE_PART
    if soft != resource.RLIM_INFINITY:
        bound = min(bound, soft)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def give_back_freed() -> None:
    """Have the C library give the system what was freed, which it else keeps between what is still used, to hand it out
    again (60 ms for 2 GB)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # GNU's
    if trim is not None:
        trim(0)


def _listed(file: Path, name: str) -> int:
    """Bytes, from a file of the kernel's that lists them in kB."""
    return next(int(line.split()[1]) * 1024 for line in file.read_text().splitlines() if line.startswith(name))


def _number(name: str) -> int | None:
    """A control file of cgroup v2; None where there is no limit or no such file."""
    try:
        raw = (_CGROUP / name).read_text().strip()
    except OSError:
        return None
    return None if raw == "max" else int(raw)
