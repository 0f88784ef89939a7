"""The cache of recurrent and hybrid models: whatever happens meanwhile, a match is the state of exactly its tokens.

What a token leaves behind is made up here from a hash over all tokens before it: a wrong byte anywhere is found.
"""

import hashlib
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from inference.engine.cache.checkpoints import TEMPLATE_TOKENS, CheckpointCache
from inference.engine.cache.disk import DiskTier
from inference.engine.cache.names import BLOCK_TOKENS, Chain, owners
from inference.engine.cache.ram import RamTier
from inference.engine.cache.state import Bytes, Cache, Field, Layout
from inference.engine.cache.store import DiskBudget
from inference.protocol import Partition

ROW_BYTES = 16
CHECKPOINT_BYTES = 1000
ROWS = (Cache(False, 0, (Field(b"k" * 12, 1, ROW_BYTES),)),)
LAYOUTS = {"recurrent": Layout(0, (), CHECKPOINT_BYTES), "hybrid": Layout(0, ROWS, CHECKPOINT_BYTES)}
SHARED = {"shared_name": "ours", "shared_key": b"s" * 32, "shareable_messages": 1}
ALICE, BOB = (Partition(name=name, key=name[:1].encode() * 32, **SHARED) for name in ("alice", "bob"))  # type: ignore[arg-type]
PLENTY = 1 << 20


class Computed:
    """A sequence in cells."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = len(tokens)
        self._tokens = tokens

    def cut(self, start: int, stop: int) -> Bytes:
        return np.concatenate([_digest(self._tokens[: index + 1], ROW_BYTES) for index in range(start, stop)])

    def checkpoint(self) -> Bytes:
        return _digest([-1, *self._tokens], CHECKPOINT_BYTES)


def _digest(tokens: list[int], size: int) -> Bytes:
    return np.frombuffer(hashlib.shake_128(repr(tokens).encode()).digest(size), np.uint8)


def chain(partition: Partition = ALICE, shared_tokens: int = 0) -> Chain:
    return Chain(*owners(partition, b"model"), shared_tokens)


def save(cache: CheckpointCache, tokens: list[int], *, tail: bool = True, partition: Partition = ALICE) -> None:
    if cache.wants(chain(partition), tokens, len(tokens), tail=tail):
        cache.save(chain(partition), tokens, Computed(tokens), tail=tail)


@pytest.fixture(params=LAYOUTS)
def cache(request: pytest.FixtureRequest) -> CheckpointCache:
    return CheckpointCache(RamTier(PLENTY), LAYOUTS[request.param])


TEXT = list(range(1000))


def test_the_longest_checkpoint_that_is_a_strict_beginning_is_found(cache: CheckpointCache) -> None:
    for count in (64, 150, 192):
        save(cache, TEXT[:count])
    found = [cache.match(chain(), TEXT[:count]).tokens for count in (64, 65, 150, 151, 192, 193, 900)]
    assert found == [0, 64, 64, 150, 150, 192, 192]


def test_a_prompt_that_goes_on_otherwise_before_the_checkpoint_finds_an_earlier_one(cache: CheckpointCache) -> None:
    for count in (64, 150):
        save(cache, TEXT[:count])
    assert cache.match(chain(), [*TEXT[:149], -1, *TEXT[150:200]]).tokens == 64
    assert cache.match(chain(), [-1, *TEXT[1:200]]).tokens == 0


def test_without_a_tail_a_checkpoint_is_kept_at_borders_of_blocks_only(cache: CheckpointCache) -> None:
    save(cache, TEXT[:150], tail=False)
    assert cache.match(chain(), TEXT).tokens == 0
    save(cache, TEXT[:128], tail=False)
    assert cache.match(chain(), TEXT).tokens == 128


def test_nothing_is_read_that_is_kept_already(cache: CheckpointCache) -> None:
    save(cache, TEXT[:150])
    assert not cache.wants(chain(), TEXT, 150, tail=True)
    assert cache.wants(chain(), TEXT, 151, tail=True)


def test_a_state_larger_than_the_budget_is_not_even_read() -> None:
    cache = CheckpointCache(RamTier(CHECKPOINT_BYTES - 1), LAYOUTS["recurrent"])
    assert not cache.wants(chain(), TEXT, 150, tail=True)


def test_of_a_hybrid_rows_are_kept_once_and_recurrent_models_have_none() -> None:
    for name, row_bytes in (("recurrent", 0), ("hybrid", ROW_BYTES)):
        cache = CheckpointCache(RamTier(PLENTY), LAYOUTS[name])
        for count in (64, 128, 192):
            save(cache, TEXT[:count])
        assert cache.report(0).ram.bytes == 3 * CHECKPOINT_BYTES + 192 * row_bytes


def test_a_checkpoint_whose_rows_went_is_not_used() -> None:
    ram = RamTier(PLENTY)
    cache = CheckpointCache(ram, LAYOUTS["hybrid"])
    save(cache, TEXT[:64])
    save(cache, TEXT[:150])
    block = ram.get(chain().block(1, TEXT).name)
    assert block is not None
    ram._drop(block)
    assert cache.match(chain(), TEXT[:200]).tokens == 64


def test_another_tenant_finds_nothing(cache: CheckpointCache) -> None:
    save(cache, TEXT[:150])
    assert cache.match(chain(BOB), TEXT).tokens == 0


def test_what_is_declared_is_found_by_all_up_to_its_last_block(cache: CheckpointCache) -> None:
    cache.save(chain(ALICE, 140), TEXT, Computed(TEXT[:128]), tail=False)
    assert cache.match(chain(BOB, 140), TEXT).tokens == 128
    assert cache.match(chain(BOB), TEXT).tokens == 0


def test_a_long_conversation_gives_way_before_the_last_turns_of_others() -> None:
    cache = CheckpointCache(RamTier(6 * CHECKPOINT_BYTES), LAYOUTS["recurrent"])
    other = [-1, *TEXT[1:100]]
    save(cache, other)
    for count in range(100, 900, 50):
        save(cache, TEXT[:count])
    assert cache.match(chain(), [*other, 0]).tokens == 100, "though all others were used later"
    assert cache.match(chain(), TEXT[:851]).tokens == 850
    assert cache.match(chain(), TEXT[:849]).tokens == 800
    assert cache.report(0).ram.bytes == 6 * CHECKPOINT_BYTES, "older ones stay as long as there is room"


def test_what_served_more_than_its_own_conversation_is_not_put_behind() -> None:
    cache = CheckpointCache(RamTier(4 * CHECKPOINT_BYTES), LAYOUTS["recurrent"])
    save(cache, TEXT[:64])
    for question in range(3):
        cache.match(chain(), [*TEXT[:64], question])
    for count in range(100, 900, 50):
        save(cache, TEXT[:count])
        assert cache.match(chain(), [*TEXT[:64], 0]).tokens == 64


def test_declared_checkpoints_are_not_put_behind() -> None:
    cache = CheckpointCache(RamTier(5 * CHECKPOINT_BYTES), LAYOUTS["recurrent"])
    cache.save(chain(ALICE, 64), TEXT, Computed(TEXT[:64]), tail=False)
    for count in (100, 150, 200, 250):
        cache.save(chain(ALICE, 64), TEXT, Computed(TEXT[:count]), tail=True)
    cache.set_budget(3 * CHECKPOINT_BYTES, least_frequently_used_first=False)
    found = [cache.match(chain(ALICE, 64), TEXT[: count + 1]).tokens for count in (250, 200, 150)]
    assert found[:2] == [250, 200] and found[2] == 64


def test_a_prompt_stops_at_its_last_borders_of_blocks(cache: CheckpointCache) -> None:
    assert cache.stops(50, 0) == ()
    assert cache.stops(140, 0) == (64,)
    assert cache.stops(128 + TEMPLATE_TOKENS, 0) == (128,)
    assert cache.stops(1000, 300) == (256, 960)
    assert cache.stops(300, 270) == (256,)


def test_gateways_are_told_of_beginnings_little_of_which_is_computed(cache: CheckpointCache) -> None:
    save(cache, TEXT[:128])
    name = chain().checkpoint(128, TEXT).name
    assert [cache.witness(chain(), TEXT, count) for count in (127, 128, 255, 256)] == [None, name, name, None]


def test_names_of_checkpoints_are_no_names_of_blocks() -> None:
    of_blocks = {chain().block(index, TEXT).name for index in range(15)}
    of_checkpoints = {chain().checkpoint(count, TEXT).name for count in range(1, 900)}
    assert len(of_checkpoints) == 899 and not of_blocks & of_checkpoints
    assert chain().checkpoint(128, TEXT).parent == chain().checkpoint_parent(1, TEXT)


paths = st.lists(st.integers(0, 1), min_size=1, max_size=3)


class Tiers(RuleBasedStateMachine):
    """Saves, look-ups, budgets and restarts in any order."""

    @initialize(layout=st.sampled_from(sorted(LAYOUTS)))
    def begin(self, layout: str) -> None:
        self.layout = LAYOUTS[layout]
        self.directory = tempfile.TemporaryDirectory()
        self.ram_bytes = 6 * CHECKPOINT_BYTES
        self.open()

    def open(self) -> None:
        self.cache = CheckpointCache(RamTier(self.ram_bytes), self.layout)
        budget = DiskBudget(bytes=12 * CHECKPOINT_BYTES, bytes_per_second=1 << 40, bytes_per_day=1 << 50)
        self.disk = DiskTier(
            Path(self.directory.name) / "kv", compatibility=b"c" * 32, budget=budget, on_event=lambda _: None
        )
        self.cache.use_disk(self.disk)

    @rule(who=st.sampled_from([ALICE, BOB]), path=paths, rest=st.integers(1, 64), tail=st.booleans())
    def save(self, who: Partition, path: list[int], rest: int, tail: bool) -> None:
        save(self.cache, _tokens(path, rest), tail=tail, partition=who)

    @rule(who=st.sampled_from([ALICE, BOB]), path=paths, rest=st.integers(1, 64), fetch=st.booleans())
    def match(self, who: Partition, path: list[int], rest: int, fetch: bool) -> None:
        tokens = _tokens(path, rest)
        pinned = self.fetch(who, tokens) if fetch else []
        match = self.cache.match(chain(who), tokens)
        assert match.tokens < len(tokens)
        if match.tokens:
            cells = Computed(tokens[: match.tokens])
            assert match.checkpoint is not None and np.array_equal(match.checkpoint, cells.checkpoint())
            rows = [payload for payload, held, used in match.parts if held == used]
            if self.layout.caches:
                assert np.array_equal(np.concatenate(rows), cells.cut(0, match.tokens))
            else:
                assert not match.parts
        self.cache.unpin(pinned)

    def fetch(self, who: Partition, tokens: list[int]) -> list[bytes]:
        missing = self.cache.missing(chain(who), tokens)
        if not missing.ids:
            return []
        arrived = threading.Event()
        payloads: list[tuple[bytes, Bytes]] = []

        def done(found: list[tuple[bytes, Bytes]]) -> None:
            payloads.extend(found)
            arrived.set()

        self.disk.fetch(missing.names, missing.keys, done)
        assert arrived.wait(10)
        return self.cache.fetched(missing, payloads)

    @rule(path=paths, rest=st.integers(1, 63))
    def a_restart_forgets_nothing_that_was_written_last(self, path: list[int], rest: int) -> None:
        tokens = _tokens(path, rest)
        if len(tokens) < 20 or self.ram_bytes < 6 * CHECKPOINT_BYTES:
            return
        self.cache.save(chain(), tokens, Computed(tokens), tail=True)
        assert self.disk.drain(10)
        self.restart()
        pinned = self.fetch(ALICE, [*tokens, 0])
        assert self.cache.match(chain(), [*tokens, 0]).tokens == len(tokens)
        self.cache.unpin(pinned)

    @rule(part=st.integers(0, 6), lfu=st.booleans())
    def change_ram(self, part: int, lfu: bool) -> None:
        self.ram_bytes = part * CHECKPOINT_BYTES
        self.cache.set_budget(self.ram_bytes, least_frequently_used_first=lfu)

    @rule()
    def restart(self) -> None:
        self.disk.close()
        self.open()

    @invariant()
    def everything_adds_up(self) -> None:
        self.cache.check()
        assert self.cache.report(0).ram.bytes <= self.ram_bytes

    def teardown(self) -> None:
        self.disk.close()
        self.directory.cleanup()


def _tokens(path: list[int], rest: int) -> list[int]:
    """A path of segments of 64 tokens, the last one cut short."""
    whole = [1000 * segment + index for segment in path for index in range(BLOCK_TOKENS)]
    return whole[: len(whole) - BLOCK_TOKENS + rest]


Tiers.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestTiers = Tiers.TestCase
