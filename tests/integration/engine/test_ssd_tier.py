"""The SSD tier on real file systems and under real kills."""

import errno
import os
import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from inference.engine.cache.disk import DiskBudget, DiskEvent, DiskTier
from inference.engine.cache.files import OVERHEAD_BYTES
from inference.engine.cache.folder import LEDGER_BYTES
from inference.engine.cache.state import Bytes
from tests.kv_blocks import COMPATIBILITY, KEY, block, block_files, budget, bytes_in, name, payload, room_for
from tests.small_disks import small_disk
from tests.ssd_rig import PATIENCE, Rig, assert_intact, fetch, put

PAGE = 4096
MEGABYTE = 1024 * 1024


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "disk" / "kv")
    yield made
    for tier in made.tiers:
        tier.close()


# --- A full disk -----------------------------------------------------------------------------------------------------


def fill(disk: Path) -> Path:
    filler = disk / "somebody else's"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(PAGE))
    return filler


def test_a_full_disk_switches_writing_off_and_a_freed_one_on_again(tmp_path: Path, rig: Rig) -> None:
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        tier = rig.open()
        put(tier, 1)
        tier.drain(PATIENCE)
        filler = fill(disk.path)
        put(tier, 2)
        tier.drain(PATIENCE)
        report = tier.report()
        assert not report.enabled and "No space left on device" in report.reason
        assert (report.blocks, report.dropped_blocks) == (1, 1)
        assert_intact(fetch(tier, 1), 1)
        assert sorted(file.suffix for file in rig.directory.iterdir()) == ["", ".kv"], "nothing half written stays"

        rig.now += 5
        put(tier, 2)
        tier.drain(PATIENCE)
        assert not tier.report().enabled, "still full"
        filler.unlink()
        rig.now += 5
        put(tier, 2)
        assert not tier.report().enabled, "the second wait is longer"
        rig.now += 5
        put(tier, 2)
        tier.drain(PATIENCE)
        assert tier.report().enabled
        assert_intact(fetch(tier, 1, 2), 1, 2)
        tier.close()


def test_the_tier_can_start_on_a_full_disk(tmp_path: Path, rig: Rig) -> None:
    with small_disk(tmp_path / "disk", "size=64k,nr_inodes=3") as disk:
        (disk.path / "a").touch()
        (disk.path / "b").touch()
        tier = rig.open()
        assert not tier.report().enabled and "No space left on device" in tier.report().reason
        put(tier, 1)
        assert fetch(tier, 1) == []
        tier.close()


def test_a_file_size_limit_is_met_like_a_full_disk(rig: Rig) -> None:
    """The same without a file system of our own: the kernel refuses to let a file grow."""
    tier = rig.open()
    put(tier, 1)
    tier.drain(PATIENCE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEGABYTE, hard))
    try:
        tier.put(block(2), payload(2, 2 * MEGABYTE), KEY, "tenant")
        tier.drain(PATIENCE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not tier.report().enabled and os.strerror(errno.EFBIG) in tier.report().reason
    assert bytes_in(rig.directory) == room_for(1)
    assert_intact(fetch(tier, 1), 1)


def test_a_disk_that_became_read_only_is_still_read(tmp_path: Path, rig: Rig) -> None:
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        tier = rig.open()
        put(tier, 1, 2)
        tier.drain(PATIENCE)
        disk.remount("ro")
        tier.set_budget(budget(room_for(1)))
        tier.drain(PATIENCE)
        assert "Read-only file system" in tier.report().reason
        assert not tier.holds(name(1)), "its file should be gone: it is not counted on"
        assert_intact(fetch(tier, 2), 2)

        disk.remount("rw")
        rig.now += 5
        put(tier, 3)
        tier.drain(PATIENCE)
        assert tier.report().enabled
        assert bytes_in(rig.directory) == room_for(1), "what could not be deleted then is deleted now"
        assert_intact(fetch(tier, 3), 3)
        tier.close()


def test_the_kernel_sees_no_byte_beyond_the_budget(tmp_path: Path, rig: Rig) -> None:
    """A disk exactly as large as the budget: were there ever more than that, a write would fail."""
    size = 4 * PAGE - OVERHEAD_BYTES
    blocks = 5
    exact = room_for(blocks, size)
    # Two pages more: the ledger's 32 bytes take one; tmpfs wants one for the directory.
    with small_disk(tmp_path / "disk", f"size={blocks * 4 * PAGE + 2 * PAGE}"):
        tier = rig.open(budget(exact))
        for number in range(50):
            tier.put(block(number), payload(number, size), KEY, "tenant")
            if number % 7 == 0:
                fetch(tier, number)
        tier.drain(PATIENCE)
        report = tier.report()
        assert report.enabled, report.reason
        assert (report.blocks, report.evicted_blocks, report.dropped_blocks) == (blocks, 50 - blocks, 0)
        assert bytes_in(rig.directory) == exact
        # That the disk is no larger than that is proven by the block that does not fit.
        tier.set_budget(budget(exact + 4 * PAGE))
        tier.put(block(50), payload(50, size), KEY, "tenant")
        tier.drain(PATIENCE)
        assert "No space left" in tier.report().reason
        tier.close()


# --- Kills -----------------------------------------------------------------------------------------------------------

KILLED_SIZE = 3 * MEGABYTE
KILLED_BUDGET = room_for(4, KILLED_SIZE)
KILLED_PER_DAY = 40 * (KILLED_SIZE + OVERHEAD_BYTES)


def killed_payload(number: int) -> Bytes:
    """Told apart by every byte, and cheap to make."""
    made = np.full(KILLED_SIZE, number % 251, np.uint8)
    made[::3] = number // 251
    return made


def write_until_killed(directory: Path, first: int) -> None:
    """The life of a worker that has to be killed: says each block that it stored."""

    def say(event: DiskEvent) -> None:
        print(event.kind, flush=True)

    limits = DiskBudget(bytes=KILLED_BUDGET, bytes_per_second=1 << 40, bytes_per_day=KILLED_PER_DAY)
    tier = DiskTier(directory, compatibility=COMPATIBILITY, budget=limits, on_event=say)
    for number in range(first, first + 1000):
        tier.put(block(number), killed_payload(number), KEY, "tenant")
        tier.drain(PATIENCE)
    print("nobody killed me", flush=True)


def spent_today(directory: Path) -> int:
    return int((directory / "ledger").read_bytes().split()[1])


def test_a_kill_at_any_moment_leaves_only_whole_blocks_within_the_budget(tmp_path: Path) -> None:
    chance = random.Random(7)
    stored = 0
    for life in range(6):
        child = subprocess.Popen(
            [sys.executable, __file__, str(tmp_path), str(life * 1000)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        with child:
            assert child.stdout is not None
            for line in child.stdout:
                stored += line.startswith("stored")
                if chance.random() < 0.15:
                    break
            child.kill()
        assert child.returncode == -9

        assert bytes_in(tmp_path) <= KILLED_BUDGET, "even before anybody cleaned up"
        assert spent_today(tmp_path) >= stored * (KILLED_SIZE + OVERHEAD_BYTES)
        tier = DiskTier(tmp_path, compatibility=COMPATIBILITY, budget=budget(KILLED_BUDGET), on_event=lambda _: None)
        assert {file.suffix for file in tmp_path.iterdir()} <= {"", ".kv"}, "a temporary stayed"
        report = tier.report()
        assert report.enabled and report.blocks == len(block_files(tmp_path))
        assert report.bytes == bytes_in(tmp_path) - LEDGER_BYTES
        held = [number for number in range((life + 1) * 1000) if tier.holds(name(number))]
        for number in held:
            ((_, content),) = fetch(tier, number)
            assert np.array_equal(content, killed_payload(number))
        assert len(held) == report.blocks and not tier.report().dropped_blocks
        tier.close()
    assert stored, "nothing was ever written"


def test_the_lock_dies_with_its_holder(tmp_path: Path, rig: Rig) -> None:
    rig.directory.mkdir(parents=True)
    child = subprocess.Popen(
        [sys.executable, __file__, str(rig.directory), "0"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with child:
        assert child.stdout is not None and child.stdout.readline()
        tier = rig.open()
        assert "another worker keeps its blocks there" in tier.report().reason
        child.kill()
    rig.now += 5
    put(tier, 1)
    tier.drain(PATIENCE)
    assert tier.report().enabled


if __name__ == "__main__":
    write_until_killed(Path(sys.argv[1]), int(sys.argv[2]))
