"""What memory there is, and that no more is taken."""

import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from inference import memory


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the kernel shows its cgroups, on a machine with 9,000 kB of which 5,000 are available."""
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 5000 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "mounted")
    return tmp_path / "mounted"


def in_version_2(cgroups: Path, group: str, most: str, *, used: int, files: int = 0) -> None:
    folder = cgroups / group
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 7\nactive_file {files - 100}\ninactive_file 100\n")


def test_without_a_limit_there_is_what_the_machine_has(cgroups: Path) -> None:
    (cgroups.parent / "own").write_text("0::/service\n")
    in_version_2(cgroups, "service", "max", used=1000)
    assert (memory.available_bytes(), memory.total_bytes()) == (5000 * 1024, 9000 * 1024)


def test_a_cgroup_leaves_its_limit_less_what_is_used_and_can_not_make_room(cgroups: Path) -> None:
    (cgroups.parent / "own").write_text("0::/service\n")
    in_version_2(cgroups, "service", "3000", used=2500, files=1500)
    assert (memory.available_bytes(), memory.total_bytes()) == (2000, 3000)


def test_the_tightest_of_the_cgroups_that_one_lies_in_counts(cgroups: Path) -> None:
    (cgroups.parent / "own").write_text("0::/slice/service\n")
    in_version_2(cgroups, "slice/service", "3000", used=1000, files=200)
    in_version_2(cgroups, "slice", "2000", used=1800, files=200)
    assert (memory.available_bytes(), memory.total_bytes()) == (400, 2000)


def test_in_a_container_the_mounted_root_is_its_own_group(cgroups: Path) -> None:
    (cgroups.parent / "own").write_text("0::/docker/4711\n")
    in_version_2(cgroups, "", "3000", used=1100, files=100)
    assert memory.available_bytes() == 2000


def test_version_1_counts_the_children_of_a_group_too(cgroups: Path) -> None:
    (cgroups.parent / "own").write_text("5:devices:/\n4:memory:/jobs\n0::/\n")
    folder = cgroups / "memory" / "jobs"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text("4000\n")
    (folder / "memory.usage_in_bytes").write_text("3000\n")
    (folder / "memory.stat").write_text(
        "active_file 1\ninactive_file 1\ntotal_active_file 600\ntotal_inactive_file 400\n"
    )
    assert (memory.available_bytes(), memory.total_bytes()) == (2000, 4000)


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
