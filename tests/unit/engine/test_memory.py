"""What memory there is, and that no more is taken."""

import mmap
from pathlib import Path

import pytest

from inference.engine import memory


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


def _take(size: int) -> None:
    mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE).close()
