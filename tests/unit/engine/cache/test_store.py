"""Blocks in a directory: within the budget at every moment, and nothing is served that is not as it was written."""

import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

from inference.engine.cache.events import DiskEvent, DiskEventKind
from inference.engine.cache.files import Format
from inference.engine.cache.folder import LEDGER_BYTES
from inference.engine.cache.store import DiskBudget, Store
from tests.kv_blocks import (
    COMPATIBILITY,
    KEY,
    block_files,
    budget,
    bytes_in,
    label,
    name,
    payload,
    room_for,
)

FORMAT = Format(COMPATIBILITY)
NOON = 1_700_000_000.0
DAY = 86_400.0


class Opened(Store):
    """A store that keeps what it told."""

    def __init__(self, directory: Path, budget: DiskBudget, format: Format = FORMAT) -> None:
        self.events: list[DiskEvent] = []
        self.most_bytes = 0
        """In the directory, whenever something had just changed there."""
        self._path = directory
        super().__init__(directory, format, budget, self.note)

    def note(self, event: DiskEvent) -> None:
        self.events.append(event)
        self.most_bytes = max(self.most_bytes, bytes_in(self._path))

    def keep(self, number: int, now: float = NOON, *, parent: bytes | None = None, size: int = 1000) -> str:
        which = label(number) if parent is None else label(number, parent=parent)
        return self.write(which, payload(number, size), KEY, now)

    def told(self, kind: DiskEventKind) -> list[bytes]:
        return [event.name for event in self.events if event.kind is kind]

    def has(self, *numbers: int) -> bool:
        """These blocks, intact, and no others."""
        return len(self.index) == len(numbers) and all(self.intact(number) for number in numbers)

    def intact(self, number: int) -> bool:
        found = self.read(name(number), KEY)
        return found is not None and np.array_equal(found, payload(number, found.nbytes))


def test_a_block_is_read_as_it_was_written(tmp_path: Path) -> None:
    store = Opened(tmp_path / "kv", budget())
    assert store.keep(1) == ""
    assert store.has(1)
    assert store.read(name(2), KEY) is None
    assert store.events == [DiskEvent(kind=DiskEventKind.STORED, name=name(1), bytes=1160)]


def test_a_block_that_is_held_is_not_written_again(tmp_path: Path) -> None:
    store = Opened(tmp_path, budget(per_day=1160))
    assert store.keep(1) == store.keep(1) == ""
    assert store.told(DiskEventKind.STORED) == [name(1)]
    assert store.index.bytes == bytes_in(tmp_path) - LEDGER_BYTES


def test_blocks_are_there_again_after_a_restart(tmp_path: Path) -> None:
    store = Opened(tmp_path, budget())
    for number in range(5):
        store.keep(number)
    store.close()
    again = Opened(tmp_path, budget())
    assert again.has(*range(5))
    assert again.index.bytes == store.index.bytes == bytes_in(tmp_path) - LEDGER_BYTES


def test_only_our_user_may_look(tmp_path: Path) -> None:
    directory = tmp_path / "kv"
    directory.mkdir(mode=0o755)
    Opened(directory, budget()).keep(1)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()} == {0o600}


# --- The budget ------------------------------------------------------------------------------------------------------


def test_the_budget_is_used_to_the_last_byte(tmp_path: Path) -> None:
    store = Opened(tmp_path, budget(room_for(3)))
    for number in range(3):
        store.keep(number)
    assert bytes_in(tmp_path) == room_for(3)
    assert not store.told(DiskEventKind.EVICTED)


def test_one_byte_less_is_one_block_less(tmp_path: Path) -> None:
    store = Opened(tmp_path, budget(room_for(3) - 1))
    for number in range(3):
        store.keep(number)
    assert store.told(DiskEventKind.EVICTED) == [name(0)]
    assert store.has(1, 2)


def test_room_is_made_before_a_write(tmp_path: Path) -> None:
    store = Opened(tmp_path, budget(room_for(2)))
    for number in range(6):
        store.keep(number)
    assert store.most_bytes == room_for(2)


def test_a_smaller_budget_holds_at_once(tmp_path: Path) -> None:
    store = Opened(tmp_path, budget(room_for(5)))
    for number in range(5):
        store.keep(number)
    store.set_budget(budget(room_for(2)))
    assert bytes_in(tmp_path) == room_for(2)
    assert store.has(3, 4)


def test_a_budget_of_nothing_empties_the_directory(tmp_path: Path) -> None:
    store = Opened(tmp_path, budget())
    store.keep(1)
    store.set_budget(budget(0))
    assert not block_files(tmp_path)
    assert store.keep(2) == "the block is larger than the budget"


def test_a_budget_that_shrank_while_nobody_looked_holds_after_a_restart(tmp_path: Path) -> None:
    store = Opened(tmp_path, budget())
    for number in range(5):
        store.keep(number, NOON + number)
    store.close()
    assert Opened(tmp_path, budget(room_for(2))).has(3, 4)
    assert bytes_in(tmp_path) == room_for(2)


def test_a_block_that_can_never_fit_pushes_nobody_out(tmp_path: Path) -> None:
    store = Opened(tmp_path, budget(room_for(2)))
    store.keep(1)
    assert store.keep(2, size=5000) == "the block is larger than the budget"
    assert store.has(1)


def test_uses_are_remembered_across_a_restart(tmp_path: Path) -> None:
    store = Opened(tmp_path, budget())
    for number in range(3):
        store.keep(number, NOON + number)
    store.touch([name(0)], NOON + 10)
    store.close()
    again = Opened(tmp_path, budget(room_for(2)))
    assert again.has(0, 2)


def test_uses_since_they_were_saved_are_all_that_a_kill_loses(tmp_path: Path) -> None:
    store = Opened(tmp_path / "kv", budget())
    for number in range(3):
        store.keep(number, NOON + number)
    store.touch([name(0)], NOON + 10)
    store.save_uses()
    store.touch([name(1)], NOON + 20)
    shutil.copytree(tmp_path / "kv", tmp_path / "killed")
    assert Opened(tmp_path / "killed", budget(room_for(2))).has(0, 2)


# --- The day's budget ------------------------------------------------------------------------------------------------


def test_no_more_is_written_in_a_day_than_allowed(tmp_path: Path) -> None:
    store = Opened(tmp_path, budget(per_day=2 * 1160))
    assert [store.keep(number) for number in range(3)] == ["", "", "the day's budget of bytes to write is spent"]
    assert store.keep(3, NOON + DAY) == ""
    assert store.has(0, 1, 3)


def test_a_restart_does_not_renew_the_days_budget(tmp_path: Path) -> None:
    store = Opened(tmp_path / "kv", budget(per_day=2 * 1160))
    store.keep(0)
    store.keep(1)
    shutil.copytree(tmp_path / "kv", tmp_path / "killed")
    store.close()
    for directory in (tmp_path / "kv", tmp_path / "killed"):
        again = Opened(directory, budget(per_day=2 * 1160))
        assert again.keep(2) != ""
        assert again.keep(2, NOON + DAY) == ""


def test_evicted_blocks_were_written_all_the_same(tmp_path: Path) -> None:
    store = Opened(tmp_path, budget(room_for(1), per_day=3 * 1160))
    assert [store.keep(number) == "" for number in range(5)] == [True, True, True, False, False]


def test_a_ledger_that_is_no_ledger_is_begun_anew(tmp_path: Path) -> None:
    Opened(tmp_path, budget()).close()
    (tmp_path / "ledger").write_bytes(b"\xff" * 100)
    store = Opened(tmp_path, budget(per_day=1160))
    assert [store.keep(1) == "", store.keep(2) == ""] == [True, False]
    store.close()
    assert Opened(tmp_path, budget(per_day=1160)).keep(3) != ""


# --- Files that are not as they should be ----------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 9, 15, 40, 60, 80, 120, 135, 144, 700, 1143, 1144, 1159])
def test_a_damaged_block_is_deleted_and_never_served(tmp_path: Path, offset: int) -> None:
    store = Opened(tmp_path, budget())
    store.keep(1)
    store.keep(2)
    file = tmp_path / FORMAT.file_name(label(1))
    content = bytearray(file.read_bytes())
    content[offset] ^= 1
    file.write_bytes(content)
    assert store.read(name(1), KEY) is None
    assert store.told(DiskEventKind.DAMAGED) == [name(1)]
    assert not file.exists()
    assert store.has(2)
    assert store.keep(1) == "" and store.has(1, 2)


@pytest.mark.parametrize("length", [0, 1, 131, 132, 143, 144, 159, 160, 700, 1159])
@pytest.mark.parametrize("restart", [False, True])
def test_a_truncated_block_is_deleted_and_never_served(tmp_path: Path, length: int, restart: bool) -> None:
    store = Opened(tmp_path, budget())
    store.keep(1)
    os.truncate(tmp_path / FORMAT.file_name(label(1)), length)
    if restart:
        store.close()
        store = Opened(tmp_path, budget())
    assert store.read(name(1), KEY) is None
    assert not block_files(tmp_path)
    assert store.index.bytes == 0


def test_a_file_of_absurd_size_is_deleted_unread(tmp_path: Path) -> None:
    store = Opened(tmp_path, budget())
    store.keep(1)
    store.close()
    os.truncate(tmp_path / FORMAT.file_name(label(1)), 1 << 40)
    assert Opened(tmp_path, budget(1 << 50)).has()
    assert not block_files(tmp_path)


def test_a_block_that_grew_is_deleted(tmp_path: Path) -> None:
    store = Opened(tmp_path, budget())
    store.keep(1)
    with (tmp_path / FORMAT.file_name(label(1))).open("ab") as file:
        file.write(b"more")
    assert store.read(name(1), KEY) is None
    assert not block_files(tmp_path)


def test_swapped_files_are_both_found_out(tmp_path: Path) -> None:
    store = Opened(tmp_path, budget())
    store.keep(1)
    store.keep(2)
    one, other = (tmp_path / FORMAT.file_name(label(number)) for number in (1, 2))
    one.rename(tmp_path / "aside")
    other.rename(one)
    (tmp_path / "aside").rename(other)
    assert store.read(name(1), KEY) is None
    assert store.read(name(2), KEY) is None


def test_another_key_is_served_nothing(tmp_path: Path) -> None:
    store = Opened(tmp_path, budget())
    store.keep(1)
    assert store.read(name(1), bytes(32)) is None


def test_a_file_that_somebody_deleted_is_a_miss(tmp_path: Path) -> None:
    store = Opened(tmp_path, budget())
    store.keep(1)
    (tmp_path / FORMAT.file_name(label(1))).unlink()
    assert store.read(name(1), KEY) is None
    assert store.index.bytes == 0


def test_blocks_of_another_compatibility_key_are_deleted(tmp_path: Path) -> None:
    store = Opened(tmp_path, budget(), Format(b"the build before"))
    store.keep(1)
    store.close()
    assert Opened(tmp_path, budget()).has()
    assert not block_files(tmp_path)


def test_what_a_kill_left_half_written_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "writing.tmp").write_bytes(b"half a block")
    Opened(tmp_path, budget(room_for(1)))
    assert bytes_in(tmp_path) <= room_for(1)
    assert not (tmp_path / "writing.tmp").exists()


def test_one_block_under_two_parents_is_kept_once(tmp_path: Path) -> None:
    store = Opened(tmp_path, budget())
    store.keep(1)
    store.close()
    twin = FORMAT.file_name(label(1, parent=name(9)))
    shutil.copy(tmp_path / FORMAT.file_name(label(1)), tmp_path / twin)
    again = Opened(tmp_path, budget())
    assert len(again.index) == len(block_files(tmp_path)) == 1


def test_foreign_files_are_neither_read_nor_deleted(tmp_path: Path) -> None:
    directory = tmp_path / "kv"
    directory.mkdir()
    (directory / "notes.txt").write_text("mine")
    (directory / "notes.kv").write_text("mine")
    (directory / FORMAT.file_name(label(7))).mkdir()
    store = Opened(directory, budget(room_for(1)))
    store.keep(1)
    store.keep(2)
    store.set_budget(budget(0))
    assert sorted(file.name for file in directory.iterdir() if file.name != "ledger") == sorted(
        ["notes.txt", "notes.kv", FORMAT.file_name(label(7))]
    )


def test_a_directory_in_the_place_of_a_block_keeps_that_one_out_and_no_other(tmp_path: Path) -> None:
    (tmp_path / FORMAT.file_name(label(1))).mkdir()
    store = Opened(tmp_path, budget())
    assert store.keep(1) == "a directory has the name of its file"
    assert store.keep(2) == ""
    assert store.has(2)
    assert not (tmp_path / "writing.tmp").exists()


def test_symbolic_links_are_never_followed(tmp_path: Path) -> None:
    directory, target = tmp_path / "kv", tmp_path / "precious"
    store = Opened(directory, budget())
    store.keep(1)
    store.close()
    (directory / FORMAT.file_name(label(1))).rename(target)
    precious = target.read_bytes()
    for link in (FORMAT.file_name(label(1)), FORMAT.file_name(label(2)), "writing.tmp"):
        (directory / link).symlink_to(target)

    again = Opened(directory, budget())
    assert not again.index.holds(name(1)), "a link is no block"
    assert again.keep(2) == "" and again.has(2)
    assert not (directory / FORMAT.file_name(label(2))).is_symlink(), "replaced"
    assert target.read_bytes() == precious
    again.set_budget(budget(0))
    assert target.read_bytes() == precious
    assert (directory / FORMAT.file_name(label(1))).is_symlink(), "not ours to delete"


def test_a_block_that_became_a_link_is_not_followed(tmp_path: Path) -> None:
    directory = tmp_path / "kv"
    store = Opened(directory, budget())
    store.keep(1)
    file = directory / FORMAT.file_name(label(1))
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert store.read(name(1), KEY) is None
    assert (tmp_path / "elsewhere").exists()


def test_a_pipe_in_the_place_of_a_block_hangs_nothing(tmp_path: Path) -> None:
    store = Opened(tmp_path, budget())
    store.keep(1)
    file = tmp_path / FORMAT.file_name(label(1))
    file.unlink()
    os.mkfifo(file)
    assert store.read(name(1), KEY) is None


# --- Who may use the directory ---------------------------------------------------------------------------------------


def test_a_directory_has_one_owner_at_a_time(tmp_path: Path) -> None:
    store = Opened(tmp_path, budget())
    store.keep(1)
    with pytest.raises(BlockingIOError, match="another worker"):
        Opened(tmp_path, budget(0))
    assert store.has(1), "the one that was refused must not have touched anything"
    store.close()
    assert Opened(tmp_path, budget()).has(1)


def test_a_path_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Opened(tmp_path / "file", budget())
    with pytest.raises(OSError, match="file"):
        Opened(tmp_path / "file" / "below", budget())
