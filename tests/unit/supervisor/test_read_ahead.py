"""What waits to be loaded is read into the page cache, by the kernel, which is asked here what it holds."""

import mmap
import os
from pathlib import Path

import pytest

from inference.protocol import ModelSpec
from inference.supervisor import read_ahead
from inference.supervisor.read_ahead import ReadAhead
from tests.page_cache import forget, resident_share
from tests.waiting import until

SIZE = 8 * 1024 * 1024


def a_file(path: Path) -> ModelSpec:
    """On a disk, and not in the page cache; skipped where the file system keeps no other copy."""
    path.write_bytes(os.urandom(SIZE))
    forget(path)
    if resident_share(path) > 0:
        pytest.skip("files of this file system are always in memory")
    return ModelSpec(version_pk=1, model="m", version="1.0.0", files=(str(path),))


async def test_who_waits_is_read(tmp_path: Path) -> None:
    spec = a_file(tmp_path / "m.gguf")
    ahead = ReadAhead()
    ahead.expect([spec])
    await until(lambda: resident_share(tmp_path / "m.gguf") > 0.5)
    ahead.close()


async def test_no_more_is_read_than_half_of_what_is_free(tmp_path: Path) -> None:
    spec = a_file(tmp_path / "m.gguf")
    ahead = ReadAhead(available=lambda: SIZE // 2)
    ahead.expect([spec])
    await until(lambda: resident_share(tmp_path / "m.gguf") > 0)
    ahead.close()
    # The kernel may round up, by as much as it reads at once.
    assert resident_share(tmp_path / "m.gguf") < 0.6


async def test_who_waits_on_is_not_read_again_and_who_waits_anew_is(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def advise(file: str, most_bytes: int) -> int:
        read.append(file)
        return 0

    monkeypatch.setattr(read_ahead, "_advise", advise)
    one, two = (ModelSpec(version_pk=pk, model="m", version="1.0.0", files=(f"{pk}.gguf",)) for pk in (1, 2))
    ahead = ReadAhead()
    for specs in ([one], [one, two], [one], [], [one]):
        ahead.expect(specs)
    await until(lambda: len(read) == 3)
    ahead.close()
    assert read == ["1.gguf", "2.gguf", "1.gguf"]


async def test_a_file_that_is_gone_is_the_loads_affair() -> None:
    ahead = ReadAhead()
    ahead.expect([ModelSpec(version_pk=1, model="m", version="1.0.0", files=("/nowhere.gguf",))])
    ahead.close()


def test_what_is_resident_is_told_by_the_kernel(tmp_path: Path) -> None:
    path = tmp_path / "half"
    path.write_bytes(bytes(64 * mmap.PAGESIZE))
    assert resident_share(path) == 1.0
