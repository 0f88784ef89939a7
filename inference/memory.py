"""How much memory this process may still take, its cgroup's limit included, and giving back what it took."""

import ctypes
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_MEMINFO = Path("/proc/meminfo")
_OWN = Path("/proc/self/status")

_KEPT_FREE_PART = 16
"""One part in so many of what is available is not given to one process: the kernel and the others need it, too."""


def available_bytes() -> int:
    """What could be used without swapping: the kernel's own estimate, or what the tightest cgroup leaves if less."""
    left = [max(0, limit.bytes - limit.used) for limit in _limits()]
    return min([_listed(_MEMINFO, "MemAvailable:"), *left])


def total_bytes() -> int:
    """What there would be if nothing were used: the machine's, or the tightest cgroup's limit if that is less."""
    return min([_listed(_MEMINFO, "MemTotal:"), *(limit.bytes for limit in _limits())])


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


class _Limit(NamedTuple):
    bytes: int
    used: int
    """Without the page cache, which makes room for others (as it does in the kernel's ``MemAvailable``)."""


def _limits() -> Iterator[_Limit]:
    """Of the cgroups that we are in, whichever version this system has; those without a limit are left out."""
    for line in _OWN_CGROUPS.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from _limits_along(_CGROUPS, path, "memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            yield from _limits_along(_CGROUPS / "memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes")


def _limits_along(mount: Path, path: str, most: str, used: str) -> Iterator[_Limit]:
    """From our group up to the root of what is mounted. In a container the path may be the host's, of which only the
    end is mounted here, as the root: then that is all there is to see.
    """
    own = mount / path.lstrip("/")
    for group in (own, *own.parents):
        limit, taken = _number(group / most), _number(group / used)
        if limit is not None and taken is not None:
            yield _Limit(limit, taken - _page_cache(group / "memory.stat"))
        if group == mount:
            return


def _page_cache(statistics: Path) -> int:
    """Bytes of files. Version 1 counts a group's children under names of their own, which are later in the file."""
    amounts = dict(line.split() for line in statistics.read_text().splitlines())
    return sum(int(amounts.get(f"total_{name}", amounts.get(name, 0))) for name in ("active_file", "inactive_file"))


def _listed(file: Path, name: str) -> int:
    """Bytes, from a file of the kernel's that lists them in kB."""
    return next(int(line.split()[1]) * 1024 for line in file.read_text().splitlines() if line.startswith(name))


def _number(control: Path) -> int | None:
    """A control file of a cgroup; None where there is no limit or no such file."""
    try:
        raw = control.read_text().strip()
    except OSError:
        return None
    return None if raw == "max" else int(raw)
