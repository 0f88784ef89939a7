"""What a process charges outlives it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from quotas import journal
from quotas.journal import Journal, JournalFull, left_behind

KILLED = """
import sys, pathlib
from quotas.journal import Journal
journal = Journal(pathlib.Path(sys.argv[1]))
for lease in range(1, 4):
    journal.charge(lease, 100)
journal.charge(2, 2**40)
journal.forget(3)
print(journal.gateway, flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_had_charged_is_found_by_one_who_looks(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    assert list(left_behind(tmp_path)) == [], "it lives"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    found = left_behind(tmp_path)
    assert next(found) == (name, [(1, 100), (2, 2**40)])
    assert list(left_behind(tmp_path)) == [], "somebody is at it"
    assert next(found, None) is None
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_finished_with_is_found_again(tmp_path: Path) -> None:
    dead = Journal(tmp_path)
    dead.charge(7, 1)
    os.close(dead._file)  # as the kernel does at its end
    found = left_behind(tmp_path)
    next(found)
    with pytest.raises(ZeroDivisionError):
        found.throw(ZeroDivisionError())
    assert [charges for _, charges in left_behind(tmp_path)] == [[(7, 1)]]


def test_a_process_that_ends_in_order_leaves_nothing(tmp_path: Path) -> None:
    ends = Journal(tmp_path)
    ends.charge(1, 1)
    ends.close()
    assert list(tmp_path.iterdir()) == []


def test_slots_are_used_again_and_when_all_are_taken_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SLOTS", 2)
    mine = Journal(tmp_path)
    mine.charge(1, 1)
    mine.charge(2, 1)
    with pytest.raises(JournalFull):
        mine.charge(3, 1)
    mine.forget(1)
    mine.charge(3, 1)
    mine.close()
