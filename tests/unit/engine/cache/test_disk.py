"""The SSD tier as the engine sees it: nothing waits for the disk, and no disk is a reason to fail."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from inference.engine.cache.disk import DiskEventKind, DiskTier
from inference.engine.cache.names import BlockId
from tests.kv_blocks import COMPATIBILITY, KEY, ROOT, block_files, budget, bytes_in, name, room_for
from tests.ssd_rig import NOON, PATIENCE, SIZE, Rig, assert_intact, fetch, put

DAY = 86_400.0


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "kv")
    yield made
    for tier in made.tiers:
        tier.close()


def test_what_was_put_is_fetched(rig: Rig) -> None:
    tier = rig.open()
    put(tier, 1, 2, 3)
    assert tier.drain(PATIENCE)
    assert [tier.holds(name(number)) for number in range(5)] == [False, True, True, True, False]
    assert_intact(fetch(tier, 1, 2, 3), 1, 2, 3)
    assert tier.written_bytes == 3 * SIZE


def test_blocks_outlive_the_worker(rig: Rig) -> None:
    tier = rig.open()
    put(tier, 1, 2)
    tier.drain(PATIENCE)
    tier.close()
    again = rig.open()
    assert_intact(fetch(again, 1, 2), 1, 2)


def test_a_fetch_ends_before_the_first_block_that_is_not_there(rig: Rig) -> None:
    tier = rig.open()
    put(tier, 1, 2, 4)
    tier.drain(PATIENCE)
    assert_intact(fetch(tier, 1, 2, 3, 4), 1, 2)
    assert fetch(tier, 9) == []
    assert fetch(tier) == []


def test_a_fetch_ends_before_the_first_block_that_is_damaged(rig: Rig) -> None:
    tier = rig.open()
    put(tier, 1, 2, 3)
    tier.drain(PATIENCE)
    damaged = next(file for file in block_files(rig.directory) if name(2).hex() in file.name)
    damaged.write_bytes(bytes(SIZE))
    assert_intact(fetch(tier, 1, 2, 3), 1)
    tier.drain(PATIENCE)
    assert not tier.holds(name(2)) and not damaged.exists()
    assert tier.report().dropped_blocks == 1
    assert rig.told(DiskEventKind.DAMAGED) == [name(2)]
    assert tier.report().enabled, "one damaged block is no reason to stop"


def test_a_key_that_does_not_fit_reads_nothing(rig: Rig) -> None:
    tier = rig.open()
    put(tier, 1)
    tier.drain(PATIENCE)
    assert fetch(tier, 1, key=bytes(32)) == []


def test_tails_are_found_by_their_parent(rig: Rig) -> None:
    tier = rig.open()
    put(tier, 1)
    put(tier, 2, parent=name(1), tokens=10)
    put(tier, 3, parent=name(1), tokens=40)
    tier.drain(PATIENCE)
    assert tier.tail_sizes(name(1)) == (40, 10)
    assert tier.tail_sizes(ROOT) == ()


def test_a_fetch_does_not_wait_for_writes_that_wait_for_the_rate(rig: Rig) -> None:
    tier = rig.open(budget(rate=1))
    put(tier, 1)
    tier.drain(PATIENCE)
    put(tier, 2, 3)
    assert_intact(fetch(tier, 1), 1)
    assert not tier.holds(name(2)), "a byte a second: it is its turn in twenty minutes"
    tier.set_budget(budget())
    assert tier.drain(PATIENCE)
    assert tier.holds(name(2)) and tier.holds(name(3))


def test_what_is_beyond_the_queue_is_dropped_and_counted(rig: Rig) -> None:
    tier = rig.open(budget(rate=1), queue_bytes=2 * SIZE)
    put(tier, 1)
    tier.drain(PATIENCE)
    put(tier, 2, 3, 4)
    assert tier.report().dropped_blocks == 1
    assert rig.told(DiskEventKind.DROPPED) == [name(4)]


def test_what_is_beyond_the_days_budget_is_dropped_and_counted(rig: Rig) -> None:
    tier = rig.open(budget(per_day=2 * SIZE))
    put(tier, 1, 2, 3)
    tier.drain(PATIENCE)
    assert rig.told(DiskEventKind.DROPPED) == [name(3)]
    assert tier.report().dropped_blocks == 1
    tier.close()

    again = rig.open(budget(per_day=2 * SIZE))
    put(again, 3)
    again.drain(PATIENCE)
    assert not again.holds(name(3)), "a restart is no new day"
    rig.now += DAY
    put(again, 3)
    again.drain(PATIENCE)
    assert again.holds(name(3))


def test_a_rate_of_nothing_writes_nothing(rig: Rig) -> None:
    tier = rig.open(budget(rate=0))
    put(tier, 1)
    assert tier.drain(PATIENCE)
    assert tier.report().dropped_blocks == 1
    assert not block_files(rig.directory)


def test_the_report_adds_up(rig: Rig) -> None:
    tier = rig.open(budget(room_for(2)))
    for number in (1, 2, 3):
        put(tier, number)
        tier.drain(PATIENCE)
        rig.now += 1
    fetch(tier, 2)
    tier.drain(PATIENCE)
    report = tier.report()
    assert report.enabled and not report.reason
    assert (report.blocks, report.bytes, report.budget_bytes) == (2, 2 * SIZE, room_for(2))
    assert (report.evicted_blocks, report.dropped_blocks) == (1, 0)
    assert (report.least_recent_use, report.least_uses) == (NOON + 2, 0), "block 3: block 2 was fetched after it"
    assert rig.told(DiskEventKind.STORED) == [name(1), name(2), name(3)]
    assert rig.told(DiskEventKind.EVICTED) == [name(1)]


def test_a_block_that_is_put_again_is_used_not_written(rig: Rig) -> None:
    tier = rig.open(budget(room_for(2)))
    put(tier, 1, 2)
    tier.drain(PATIENCE)
    put(tier, 1)
    put(tier, 3)
    tier.drain(PATIENCE)
    assert [tier.holds(name(number)) for number in (1, 2, 3)] == [True, False, True]
    assert tier.written_bytes == 3 * SIZE


def test_what_ram_used_stays_on_disk(rig: Rig) -> None:
    tier = rig.open(budget(room_for(3)))
    put(tier, 1, 2, 3)
    tier.drain(PATIENCE)
    tier.touch([name(1), name(2)])
    put(tier, 4)
    tier.drain(PATIENCE)
    assert not tier.holds(name(3))
    put(tier, 5)
    tier.drain(PATIENCE)
    assert tier.holds(name(1)) and not tier.holds(name(2)), "of one chain the end goes first"


def test_a_budget_of_nothing_switches_the_tier_off_and_empties_it(rig: Rig) -> None:
    tier = rig.open()
    put(tier, 1)
    tier.drain(PATIENCE)
    tier.set_budget(budget(0))
    tier.drain(PATIENCE)
    report = tier.report()
    assert (report.enabled, report.reason, report.blocks) == (False, "its budget is 0", 0)
    assert not block_files(rig.directory)
    put(tier, 2)
    tier.drain(PATIENCE)
    assert not tier.holds(name(2)) and not tier.report().dropped_blocks
    tier.set_budget(budget())
    put(tier, 3)
    tier.drain(PATIENCE)
    assert tier.report().enabled and tier.holds(name(3))


def test_with_a_budget_of_nothing_from_the_start_no_directory_is_made(rig: Rig) -> None:
    tier = rig.open(budget(0))
    assert not rig.directory.exists()
    assert not tier.report().enabled
    tier.set_budget(budget())
    put(tier, 1)
    tier.drain(PATIENCE)
    assert tier.holds(name(1))


def test_the_policy_can_change_while_it_runs(rig: Rig) -> None:
    tier = rig.open(budget(room_for(2)))
    put(tier, 1, 2)
    tier.drain(PATIENCE)
    for number in (1, 1, 2):
        fetch(tier, number)
    tier.set_budget(budget(room_for(2), least_frequently_used_first=True))
    put(tier, 3)
    tier.drain(PATIENCE)
    assert tier.holds(name(1)) and not tier.holds(name(2))


# --- Faults ----------------------------------------------------------------------------------------------------------


def test_a_second_worker_runs_without_the_tier_until_the_first_is_gone(rig: Rig) -> None:
    first, second = rig.open(), rig.open()
    put(first, 1)
    first.drain(PATIENCE)
    report = second.report()
    assert not report.enabled and "another worker keeps its blocks there" in report.reason
    put(second, 2)
    assert second.report().dropped_blocks == 1
    assert fetch(second, 1) == []

    first.close()
    rig.now += 5
    put(second, 2)
    second.drain(PATIENCE)
    assert second.report().enabled
    assert_intact(fetch(second, 1), 1)


def test_a_directory_that_cannot_be_made_is_no_reason_to_fail(rig: Rig) -> None:
    rig.directory.write_text("a file")
    tier = rig.open()
    assert not tier.report().enabled
    assert rig.told(DiskEventKind.OFF)
    put(tier, 1)
    assert fetch(tier, 1) == [] and not tier.holds(name(1)) and tier.tail_sizes(ROOT) == ()
    tier.set_budget(budget(1))
    assert tier.drain(PATIENCE)


def test_a_directory_that_vanished_is_made_again(rig: Rig) -> None:
    tier = rig.open()
    put(tier, 1)
    tier.drain(PATIENCE)
    shutil.rmtree(rig.directory)
    put(tier, 2)
    tier.drain(PATIENCE)
    assert "No such file" in tier.report().reason
    put(tier, 3)
    assert tier.report().dropped_blocks == 2

    rig.now += 5
    put(tier, 4)
    tier.drain(PATIENCE)
    assert tier.report().enabled and tier.report().blocks == 1
    assert_intact(fetch(tier, 4), 4)
    assert rig.told(DiskEventKind.OFF) and rig.told(DiskEventKind.ON)


def test_an_error_of_who_is_told_does_not_end_the_tier(rig: Rig) -> None:
    def fail(_news: object) -> None:
        raise OSError("a fault that is not the disk's")

    tier = DiskTier(rig.directory, compatibility=COMPATIBILITY, budget=budget(), on_event=fail)
    rig.tiers.append(tier)
    put(tier, 1)
    tier.drain(PATIENCE)
    tier.fetch([name(1)], {name(1): KEY}, fail)
    assert_intact(fetch(tier, 1), 1)
    assert tier.report().enabled


def test_when_something_is_told_the_report_knows_of_it(rig: Rig) -> None:
    seen: list[int] = []
    tier = DiskTier(
        rig.directory,
        compatibility=COMPATIBILITY,
        budget=budget(),
        on_event=lambda _: seen.append(tier.report().blocks),
    )
    rig.tiers.append(tier)
    put(tier, 1)
    tier.drain(PATIENCE)
    put(tier, 2)
    tier.drain(PATIENCE)
    assert seen == [1, 2]


def test_after_the_end_every_fetch_is_answered_and_nothing_is_written(rig: Rig) -> None:
    tier = rig.open()
    put(tier, 1)
    tier.drain(PATIENCE)
    tier.close()
    assert fetch(tier, 1) == []
    put(tier, 2)
    tier.touch([name(1)])
    tier.set_budget(budget(1))
    tier.close()
    assert len(block_files(rig.directory)) == 1


def test_the_end_does_not_wait_for_blocks_that_wait_for_the_rate(rig: Rig) -> None:
    tier = rig.open(budget(rate=1))
    put(tier, 1)
    tier.drain(PATIENCE)
    put(tier, 2)
    tier.close()
    assert len(block_files(rig.directory)) == 1


def test_blocks_from_many_threads_are_all_kept(rig: Rig) -> None:
    tier = rig.open()
    threads = [threading.Thread(target=put, args=(tier, *range(start, start + 25))) for start in range(0, 100, 25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tier.drain(PATIENCE)
    assert_intact(fetch(tier, *range(100)), *range(100))
    assert bytes_in(rig.directory) == room_for(100)


def test_any_view_of_bytes_is_written_as_it_reads(rig: Rig) -> None:
    tier = rig.open()
    every_other = np.arange(200, dtype=np.uint8)[::2]
    tier.put(BlockId(name=name(1), parent=ROOT, tokens=64), every_other, KEY, "tenant")
    tier.drain(PATIENCE)
    assert np.array_equal(fetch(tier, 1)[0][1], every_other)
