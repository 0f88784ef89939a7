"""The whole tier, its thread included, under random interleavings: nothing wrong is ever served, no budget exceeded.

When the thread gets to what it was asked is left to chance, so only what must hold at *every* moment is asserted; which
blocks are there exactly is for ``test_store_properties.py``.
"""

import shutil
import tempfile
import threading
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from inference.engine.cache.disk import DiskBudget, DiskEvent, DiskEventKind, DiskTier
from inference.engine.cache.state import Bytes
from tests.kv_blocks import COMPATIBILITY, KEY, ROOT, block, block_files, budget, bytes_in, name, payload, room_for

SIZE = 500
PATIENCE = 30.0
BLOCKS = 12

numbers = st.integers(0, BLOCKS - 1)
budgets = st.builds(budget, st.integers(0, room_for(6, SIZE)), least_frequently_used_first=st.booleans())


def parent(number: int) -> bytes:
    """Three chains of four blocks."""
    return ROOT if number % 4 == 0 else name(number - 1)


class Tier(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="nopenai-tier-"))
        self.lives = 0
        self.faults: list[str] = []

    @initialize(budget=budgets)
    def begin(self, budget: DiskBudget) -> None:
        self.directory = self.place / str(self.lives)
        self.budget = budget
        self.allowed = max(budget.bytes, room_for(0))
        """The largest budget that may still be in force."""
        self.tier = DiskTier(self.directory, compatibility=COMPATIBILITY, budget=budget, on_event=self.watch)

    def watch(self, event: DiskEvent) -> None:
        if event.kind in (DiskEventKind.STORED, DiskEventKind.EVICTED):  # told by the one thread that makes changes
            over = bytes_in(self.directory) > self.allowed
            self.faults += [f"over the budget after {event}"] if over else []

    @rule(number=numbers)
    def put(self, number: int) -> None:
        self.tier.put(block(number, parent=parent(number)), payload(number, SIZE), KEY, "tenant")

    @rule(number=numbers)
    def fetch_chain(self, number: int) -> None:
        chain = list(range(number - number % 4, number + 1))
        answered = threading.Event()

        def done(found: list[tuple[bytes, Bytes]]) -> None:
            if [which for which, _ in found] != [name(one) for one in chain[: len(found)]]:
                self.faults.append("blocks in another order than asked for")
            for one, (_, content) in zip(chain, found, strict=False):
                if not np.array_equal(content, payload(one, SIZE)):
                    self.faults.append(f"block {one} with a wrong payload")
            answered.set()

        names = [name(one) for one in chain]
        self.tier.fetch(names, dict.fromkeys(names, KEY), done)
        assert answered.wait(PATIENCE)

    @rule(used=st.lists(numbers, max_size=4))
    def touch(self, used: list[int]) -> None:
        self.tier.touch([name(number) for number in used])

    @rule(budget=budgets)
    def set_budget(self, budget: DiskBudget) -> None:
        self.budget = budget
        self.allowed = max(self.allowed, budget.bytes)
        self.tier.set_budget(budget)

    @rule()
    def drain(self) -> None:
        assert self.tier.drain(PATIENCE)
        self.allowed = max(self.budget.bytes, room_for(0))
        report = self.tier.report()
        files = block_files(self.directory) if self.directory.exists() else []
        assert report.bytes == sum(file.stat().st_size for file in files)
        assert report.blocks == len(files)
        assert not files or bytes_in(self.directory) <= self.allowed
        assert report.enabled == (self.budget.bytes > 0)
        for number in range(BLOCKS):
            assert self.tier.holds(name(number)) == any(name(number).hex() in file.name[34:98] for file in files)

    @rule(number=numbers, place=st.integers(0, SIZE - 1))
    def damage(self, number: int, place: int) -> None:
        assert self.tier.drain(PATIENCE)
        for file in block_files(self.directory) if self.directory.exists() else []:
            if name(number).hex() == file.name[34:98]:
                content = bytearray(file.read_bytes())
                content[place] ^= 1
                file.write_bytes(content)

    @rule(budget=budgets)
    def restart(self, budget: DiskBudget) -> None:
        self.tier.close()
        self.begin(budget)

    @rule(budget=budgets, torn=st.binary(max_size=600))
    def kill(self, budget: DiskBudget, torn: bytes) -> None:
        """Go on with what a copy of the directory caught, whatever the thread was doing."""
        after = self.place / str(self.lives + 1)
        after.mkdir()
        for file in list(self.directory.iterdir()) if self.directory.exists() else []:
            try:
                shutil.copy2(file, after)
            except FileNotFoundError:
                continue  # it went while we copied
        (after / "writing.tmp").write_bytes(torn)
        self.tier.close()
        self.lives += 1
        self.begin(budget)

    def teardown(self) -> None:
        if hasattr(self, "tier"):
            self.drain()
            self.tier.close()
        shutil.rmtree(self.place)
        assert not self.faults


TestTier = Tier.TestCase
TestTier.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
