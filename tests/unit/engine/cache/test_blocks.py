"""Both tiers together: whatever was saved, evicted, fetched or lost meanwhile, a match is the KV of exactly its tokens.

The KV of a token is made up here from a hash over all tokens before it, so that a wrong byte anywhere is found.
"""

import hashlib
import os
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from inference.engine.cache.blocks import BlockCache
from inference.engine.cache.disk import DiskTier
from inference.engine.cache.names import Chain, owners
from inference.engine.cache.ram import RamTier
from inference.engine.cache.state import Bytes, Cache, Field, Layout
from inference.engine.cache.store import DiskBudget
from inference.protocol import Partition

ROW_BYTES = 16
LAYOUT = Layout(0, (Cache(False, 0, (Field(b"k" * 12, 1, ROW_BYTES), Field(b"v" * 12, 1, ROW_BYTES))),))
TOKEN_BYTES = LAYOUT.block_bytes(1)
PARTITIONS = [Partition(name=name, key=name[:1].encode() * 32) for name in ("alice", "bob")]
RAM_BYTES = 64 * TOKEN_BYTES * 5
DISK_BYTES = 64 * TOKEN_BYTES * 12


def kv(tokens: list[int], partition: Partition) -> Bytes:
    """Shape (tokens, 2 × ROW_BYTES): K and V of each token, which depend on all before it."""
    digest = hashlib.blake2b(key=partition.key, digest_size=2 * ROW_BYTES)
    rows = []
    for token in tokens:
        digest.update(token.to_bytes(4, "little"))
        rows.append(np.frombuffer(digest.copy().digest(), np.uint8))
    return np.stack(rows)


class InCells:
    """A sequence that was computed."""

    def __init__(self, tokens: list[int], partition: Partition) -> None:
        self.tokens = len(tokens)
        self._rows = kv(tokens, partition)

    def cut(self, start: int, stop: int) -> Bytes:
        rows = self._rows[start:stop]
        return np.concatenate([rows[:, :ROW_BYTES].ravel(), rows[:, ROW_BYTES:].ravel()])

    def checkpoint(self) -> None:
        """It has no recurrent layers."""


def disk_budget(size: int = DISK_BYTES) -> DiskBudget:
    return DiskBudget(bytes=size, bytes_per_second=1 << 40, bytes_per_day=1 << 50)


segments = st.lists(st.integers(0, 2), min_size=1, max_size=4)


def tokens_of(path: list[int], rest: int) -> list[int]:
    """A path of segments of 64 tokens, the last one cut short."""
    whole = [1000 * segment + index for segment in path for index in range(64)]
    return whole[: len(whole) - 64 + rest]


class Tiers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.ram_bytes = RAM_BYTES
        self.open()

    def open(self) -> None:
        self.ram = RamTier(self.ram_bytes)
        self.cache = BlockCache(self.ram, LAYOUT)
        self.disk = DiskTier(
            Path(self.directory.name) / "kv", compatibility=b"c" * 32, budget=disk_budget(), on_event=lambda _: None
        )
        self.cache.use_disk(self.disk)

    def chain(self, who: int) -> Chain:
        return Chain(*owners(PARTITIONS[who], b"model"))

    @rule(who=st.integers(0, 1), path=segments, rest=st.integers(1, 64), tail=st.booleans())
    def save(self, who: int, path: list[int], rest: int, tail: bool) -> None:
        tokens = tokens_of(path, rest)
        if self.cache.wants(self.chain(who), tokens, len(tokens), tail=tail):
            self.cache.save(self.chain(who), tokens, InCells(tokens, PARTITIONS[who]), tail=tail)

    @rule(who=st.integers(0, 1), path=segments, rest=st.integers(1, 64), fetch=st.booleans())
    def match(self, who: int, path: list[int], rest: int, fetch: bool) -> None:
        tokens = tokens_of(path, rest)
        pinned = self.fetch(who, tokens) if fetch else []
        match = self.cache.match(self.chain(who), tokens)
        assert match.tokens <= len(tokens) - 1
        assert match.tokens == sum(used for _, _, used in match.parts)
        restored = [
            np.concatenate([rows.reshape(held, ROW_BYTES)[:used] for rows in np.split(payload, 2)], axis=1)
            for payload, held, used in match.parts
        ]
        if restored:
            assert np.array_equal(np.concatenate(restored), kv(tokens[: match.tokens], PARTITIONS[who]))
        self.cache.unpin(pinned)

    def fetch(self, who: int, tokens: list[int]) -> list[bytes]:
        missing = self.cache.missing(self.chain(who), tokens)
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

    @rule(who=st.integers(0, 1), path=segments, rest=st.integers(1, 64))
    def a_prompt_that_was_just_saved_is_found_but_for_its_last_token(
        self, who: int, path: list[int], rest: int
    ) -> None:
        tokens = tokens_of(path, rest)
        if len(tokens) < 20 or self.ram_bytes < RAM_BYTES:
            return
        self.cache.save(self.chain(who), tokens, InCells(tokens, PARTITIONS[who]), tail=True)
        assert self.cache.match(self.chain(who), tokens).tokens == len(tokens) - 1

    @rule(blocks=st.integers(0, 5), lfu=st.booleans())
    def change_ram(self, blocks: int, lfu: bool) -> None:
        self.ram_bytes = RAM_BYTES * blocks // 5
        self.cache.set_budget(self.ram_bytes, least_frequently_used_first=lfu)

    @rule(blocks=st.integers(0, 12))
    def change_disk(self, blocks: int) -> None:
        self.disk.set_budget(disk_budget(DISK_BYTES * blocks // 12))

    @rule(written=st.booleans())
    def restart(self, written: bool) -> None:
        if written:
            assert self.disk.drain(10)
        self.disk.close()
        self.open()

    @invariant()
    def everything_adds_up(self) -> None:
        self.cache.check()
        report = self.cache.report(0)
        assert report.ram.bytes <= self.ram_bytes
        assert _bytes_in(Path(self.directory.name) / "kv") <= DISK_BYTES

    def teardown(self) -> None:
        self.disk.close()
        self.directory.cleanup()


def _bytes_in(directory: Path) -> int:
    """Of the blocks there, while the tier's thread goes on."""
    total = 0
    for entry in os.scandir(directory):
        with suppress(FileNotFoundError):
            total += entry.stat().st_size if entry.name.endswith(".kv") else 0
    return total


Tiers.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestTiers = Tiers.TestCase


def test_blocks_that_have_left_the_sliding_window_are_not_read_again() -> None:
    field = Field(b"k" * 12, 1, ROW_BYTES)
    layout = Layout(0, (Cache(False, 0, (field,)), Cache(False, 16, (field,))))

    class BeyondWindow:
        """Its first block was computed so long ago that its cells in the window's cache hold others."""

        tokens = 128

        def cut(self, start: int, stop: int) -> Bytes:
            assert start, "the first block can't be read any more"
            return np.zeros((stop - start + 16) * ROW_BYTES, np.uint8)

        def checkpoint(self) -> None:
            """It has no recurrent layers."""

    ram = RamTier(1 << 20)
    cache = BlockCache(ram, layout)
    private, _ = owners(PARTITIONS[0], b"")
    chain, tokens = Chain(private, None, 0), list(range(128))
    first = chain.block(0, tokens)
    ram.insert(first, private, tokens[:64], np.zeros(64 * ROW_BYTES, np.uint8), now=0.0)

    cache.save(chain, tokens, BeyondWindow(), tail=False)

    assert chain.block(1, tokens).name in ram
