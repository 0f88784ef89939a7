"""How much memory this process may still take, its cgroup's limit included."""

from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def available_bytes() -> int:
    """What could be used without swapping: the kernel's own estimate, or the cgroup's head room if that is less."""
    machine = next(
        int(line.split()[1]) * 1024 for line in _MEMINFO.read_text().splitlines() if line.startswith("MemAvailable:")
    )
    limit, used = _number("memory.max"), _number("memory.current")
    return machine if limit is None or used is None else min(machine, max(0, limit - used))


def _number(name: str) -> int | None:
    """A control file of cgroup v2; None where there is no limit or no such file."""
    try:
        raw = (_CGROUP / name).read_text().strip()
    except OSError:
        return None
    return None if raw == "max" else int(raw)
