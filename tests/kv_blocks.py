"""Blocks for tests of the SSD tier: name and payload follow from a number, so that a wrong payload is told apart."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from inference.engine.cache.files import OVERHEAD_BYTES, Label, partition_digest
from inference.engine.cache.folder import LEDGER_BYTES
from inference.engine.cache.names import BlockId
from inference.engine.cache.state import Bytes
from inference.engine.cache.store import DiskBudget

KEY = bytes(range(32))
ROOT = bytes(32)
COMPATIBILITY = b"a model, a build, a layout"
PLENTY = 1 << 40


def name(number: int) -> bytes:
    return hashlib.sha256(b"block %d" % number).digest()


def block(number: int, *, parent: bytes = ROOT, tokens: int = 64) -> BlockId:
    return BlockId(name=name(number), parent=parent, tokens=tokens)


def label(number: int, *, parent: bytes = ROOT, tokens: int = 64) -> Label:
    return Label(block(number, parent=parent, tokens=tokens), partition_digest("tenant"))


def payload(number: int, size: int = 1000) -> Bytes:
    made = np.random.default_rng(number).integers(0, 256, size, np.uint8)
    made.flags.writeable = False
    return made


def budget(
    size: int = PLENTY, *, rate: int = PLENTY, per_day: int = PLENTY, least_frequently_used_first: bool = False
) -> DiskBudget:
    return DiskBudget(
        bytes=size,
        bytes_per_second=rate,
        bytes_per_day=per_day,
        least_frequently_used_first=least_frequently_used_first,
    )


def room_for(blocks: int, payload_size: int = 1000) -> int:
    """The budget in bytes that holds exactly so many blocks."""
    return blocks * (payload_size + OVERHEAD_BYTES) + LEDGER_BYTES


def block_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.kv"))


def bytes_in(directory: Path) -> int:
    """Of all files that are in the directory now."""
    return sum(_sizes(directory))


def _sizes(directory: Path) -> Iterator[int]:
    with os.scandir(directory) as entries:
        for entry in entries:
            yield entry.stat(follow_symlinks=False).st_size
