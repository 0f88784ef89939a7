"""How much memory this process may count on, cgroups included."""

from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available_ram_mb() -> int:
    """MiB that could be used without swapping: the machine's own estimate, or the cgroup's head room if smaller."""
    machine = _meminfo("MemAvailable") // 1024
    limit = _cgroup_number("memory.max")
    if limit is None:
        return machine
    used = _cgroup_number("memory.current") or 0
    return max(64, min(machine, (limit - used) // (1024 * 1024)))


def _meminfo(key: str) -> int:
    """A line of /proc/meminfo, in KiB."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0])
    return 0


def _cgroup_number(name: str) -> int | None:
    """A cgroup v2 control file as bytes; None when there is no limit or no cgroup v2."""
    try:
        raw = (_CGROUP / name).read_text().strip()
    except OSError:
        return None
    return None if raw == "max" else int(raw)
