"""What a process charges outlives it."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from quotas import journal
from quotas.journal import Journal, JournalFull, reclaim_left
from quotas.ledger import Account, Balance, Unit
from quotas.windows import Period, Window

KILLED = """
import sys, pathlib
from quotas.journal import Journal
from tests.unit.quotas.test_journal import leased
journal = Journal(pathlib.Path(sys.argv[1]))
balances = [leased(lease, 100) for lease in range(1, 4)]
for balance in balances:
    journal.open(balance.lease)
journal.charge(balances)
balances[1].spent = 2**40
journal.charge(balances)
journal.forget(3)
print(journal.gateway, flush=True)
sys.stdin.read()
"""


def leased(lease: int, spent: int = 1) -> Balance:
    account = Account(key="k", unit=Unit.TOKENS, period=Period.HOUR, limit=10, name="limit", owner="it")
    balance = Balance(account, Window(0, 3600))
    balance.lease, balance.spent = lease, spent
    return balance


def reclaimed(directory: Path) -> list[tuple[str, list[tuple[int, int]]]]:
    found: list[tuple[str, list[tuple[int, int]]]] = []
    reclaim_left(directory, lambda name, charges: found.append((name, charges)))
    return found


def died(directory: Path) -> None:
    """A process that had charged something, as the kernel leaves it."""
    dead = Journal(directory)
    dead.open(7)
    dead.charge([leased(7)])
    fcntl.flock(dead._file, fcntl.LOCK_UN)


def test_what_a_killed_process_had_charged_is_found_by_one_who_looks(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    assert reclaimed(tmp_path) == [], "it lives"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert reclaimed(tmp_path) == [(name, [(1, 100), (2, 2**40)])]
    assert list(tmp_path.iterdir()) == []


def test_only_one_reclaims(tmp_path: Path) -> None:
    died(tmp_path)
    meanwhile: list[object] = []
    reclaim_left(tmp_path, lambda *_: meanwhile.append(reclaimed(tmp_path)))
    assert meanwhile == [[]]


def test_what_could_not_be_reclaimed_is_found_again(tmp_path: Path) -> None:
    died(tmp_path)

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        reclaim_left(tmp_path, fail)
    assert [charges for _, charges in reclaimed(tmp_path)] == [[(7, 1)]]


def test_a_process_that_ends_in_order_leaves_nothing(tmp_path: Path) -> None:
    ends = Journal(tmp_path)
    ends.open(1)
    ends.charge([leased(1)])
    ends.close()
    assert list(tmp_path.iterdir()) == []


def test_slots_are_used_again_and_when_all_are_taken_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SLOTS", 2)
    mine = Journal(tmp_path)
    mine.open(1)
    mine.open(2)
    with pytest.raises(JournalFull):
        mine.open(3)
    mine.forget(1)
    mine.open(3)
    mine.close()
