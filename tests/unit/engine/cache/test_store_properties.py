"""Whatever is written, used, re-budgeted and killed, in whatever order: exactly the right blocks are there."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from inference.engine.cache.events import DiskEvent
from inference.engine.cache.files import OVERHEAD_BYTES, Format
from inference.engine.cache.store import DiskBudget, Store
from tests.kv_blocks import COMPATIBILITY, KEY, block_files, budget, bytes_in, label, name, payload, room_for

SIZE = 200
FORMAT = Format(COMPATIBILITY)
numbers = st.integers(0, 9)
budgets = st.builds(
    budget,
    st.integers(0, room_for(6, SIZE)),
    least_frequently_used_first=st.booleans(),
)


@dataclass
class Expected:
    """A block that should be there."""

    used_at: float
    saved_at: float
    """What a kill leaves of ``used_at``."""
    uses: int = 0


class Storage(RuleBasedStateMachine):
    """The blocks here follow no other block, so that the order in which they go is the policy's alone."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="nopenai-store-"))
        self.directory = self.place / "0"
        self.lives = 0
        self.now = 1_700_000_000.0
        self.expected: dict[int, Expected] = {}

    @initialize(budget=budgets)
    def open(self, budget: DiskBudget) -> None:
        self.budget = budget
        self.store = Store(self.directory, FORMAT, budget, self.watch)

    def watch(self, _event: DiskEvent) -> None:
        assert bytes_in(self.directory) <= self.allowed, "over the budget for a moment"

    @property
    def allowed(self) -> int:
        return max(self.budget.bytes, room_for(0))

    def tick(self) -> float:
        self.now += 1.0
        return self.now

    def make_room(self, blocks: int) -> None:
        """Take away who should go so that so many more fit."""
        while self.expected and room_for(len(self.expected) + blocks, SIZE) > self.budget.bytes:
            del self.expected[min(self.expected, key=self.rank)]

    def rank(self, number: int) -> tuple[float, float]:
        one = self.expected[number]
        return (one.uses if self.budget.least_frequently_used_first else 0, one.used_at)

    @rule(number=numbers)
    def write(self, number: int) -> None:
        now = self.tick()
        refusal = self.store.write(label(number), payload(number, SIZE), KEY, now)
        assert bool(refusal) == (room_for(1, SIZE) > self.budget.bytes)
        if not refusal and number not in self.expected:
            self.make_room(1)
            self.expected[number] = Expected(now, now)

    @rule(number=numbers)
    def read(self, number: int) -> None:
        found = self.store.read(name(number), KEY)
        assert (found is not None) == (number in self.expected)
        assert found is None or np.array_equal(found, payload(number, SIZE))

    @rule(number=numbers)
    def use(self, number: int) -> None:
        now = self.tick()
        self.store.touch([name(number)], now)
        if number in self.expected:
            self.expected[number].used_at = now
            self.expected[number].uses += 1

    @rule()
    def save_uses(self) -> None:
        self.store.save_uses()
        self.forget_nothing()

    @rule(budget=budgets)
    def set_budget(self, budget: DiskBudget) -> None:
        # Whatever the new budget is, the old one holds until it is applied.
        self.budget, before = budget, self.budget
        self.budget = max(before, budget, key=lambda one: one.bytes)
        self.store.set_budget(budget)
        self.budget = budget
        self.make_room(0)

    @rule(number=numbers, place=st.integers(0, SIZE + OVERHEAD_BYTES - 1))
    def damage(self, number: int, place: int) -> None:
        if number in self.expected:
            file = self.directory / FORMAT.file_name(label(number))
            content = bytearray(file.read_bytes())
            content[place] ^= 0x10
            file.write_bytes(content)
            assert self.store.read(name(number), KEY) is None
            del self.expected[number]

    @rule(budget=budgets)
    def restart(self, budget: DiskBudget) -> None:
        self.store.close()
        self.forget_nothing()
        self.begin(budget)

    @rule(budget=budgets, torn=st.none() | st.binary(max_size=400))
    def kill(self, budget: DiskBudget, torn: bytes | None) -> None:
        """What is in the directory goes on in another; the one who held it never gets to end anything."""
        self.lives += 1
        self.directory = self.place / str(self.lives)
        shutil.copytree(self.place / str(self.lives - 1), self.directory)
        if torn is not None:
            (self.directory / "writing.tmp").write_bytes(torn)
        self.store.close()
        for one in self.expected.values():
            one.used_at = one.saved_at
        self.begin(budget)

    def begin(self, budget: DiskBudget) -> None:
        self.budget = DiskBudget(  # opening evicts down to it, by what the files say: uses are counted anew
            bytes=max(budget.bytes, self.budget.bytes), bytes_per_second=0, bytes_per_day=0
        )
        for one in self.expected.values():
            one.uses = 0
        self.store = Store(self.directory, FORMAT, budget, self.watch)
        self.budget = budget
        self.make_room(0)

    def forget_nothing(self) -> None:
        for one in self.expected.values():
            one.saved_at = one.used_at

    @precondition(lambda self: hasattr(self, "store"))
    @invariant()
    def what_should_be_there_is_there(self) -> None:
        assert {number for number in range(10) if self.store.index.holds(name(number))} == self.expected.keys()
        assert {file.name for file in block_files(self.directory)} == {
            FORMAT.file_name(label(number)) for number in self.expected
        }

    @precondition(lambda self: hasattr(self, "store"))
    @invariant()
    def what_is_counted_is_what_is_there(self) -> None:
        files = sum(file.stat().st_size for file in block_files(self.directory))
        assert self.store.index.bytes == files
        assert bytes_in(self.directory) <= self.allowed

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
        shutil.rmtree(self.place)


TestStorage = Storage.TestCase
TestStorage.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
