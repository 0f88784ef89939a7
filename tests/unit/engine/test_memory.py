"""What memory there is, and that no more is taken."""

import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from inference import memory


def test_available_memory_is_what_the_machine_or_the_cgroup_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 5000 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.available_bytes() == 5000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert memory.available_bytes() == 5000 * 1024
    (tmp_path / "memory.max").write_text("3000\n")
    assert memory.available_bytes() == 2000


def test_more_than_is_available_is_not_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 4 << 20)
    with memory.bounded_by_available():
        _take(2 << 20)
        with pytest.raises(OSError, match="Cannot allocate memory"):
            _take(8 << 20)
    _take(8 << 20)


def test_what_was_freed_between_what_is_used_is_given_back() -> None:
    """In a process of its own: how much of this one's heap is free nobody knows."""
    script = """
from pathlib import Path
import numpy as np
from inference.engine.__main__ import _return_large_memory
from inference.memory import give_back_freed

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

_return_large_memory()
began = resident_mb()
blocks = [(np.ones(1 << 20, np.uint8), np.ones(1 << 15, np.uint8)) for _ in range(100)]
used = [small for _, small in blocks]
del blocks
kept = resident_mb()
give_back_freed()
print(kept - began, resident_mb() - began)
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60).stdout
    kept_mb, left_mb = map(int, told.split())
    assert kept_mb > 50
    assert left_mb < 10


def _take(size: int) -> None:
    mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE).close()
