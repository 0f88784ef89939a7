"""An SSD tier in a directory of its own, with a clock that is set by hand, and how tests speak to it."""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inference.engine.cache.disk import DiskBudget, DiskEvent, DiskEventKind, DiskTier
from inference.engine.cache.state import Bytes
from tests.kv_blocks import COMPATIBILITY, KEY, PLENTY, ROOT, block, budget, name, payload

NOON = 1_700_000_000.0
SIZE = 1160
"""Of a block's file."""
PATIENCE = 30.0
"""Seconds after which a test has failed; no test takes as long."""


class Rig:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now = NOON
        self.events: list[DiskEvent] = []
        self.tiers: list[DiskTier] = []

    def open(self, limits: DiskBudget | None = None, *, queue_bytes: int = PLENTY) -> DiskTier:
        tier = DiskTier(
            self.directory,
            compatibility=COMPATIBILITY,
            budget=limits or budget(),
            on_event=self.events.append,
            clock=lambda: self.now,
            queue_bytes=queue_bytes,
        )
        self.tiers.append(tier)
        return tier

    def told(self, kind: DiskEventKind) -> list[bytes]:
        return [event.name for event in self.events if event.kind is kind]


def put(tier: DiskTier, *numbers: int, parent: bytes = ROOT, tokens: int = 64) -> None:
    for number in numbers:
        tier.put(block(number, parent=parent, tokens=tokens), payload(number), KEY, "tenant")


def fetch(tier: DiskTier, *numbers: int, key: bytes = KEY) -> list[tuple[bytes, Bytes]]:
    answers: list[list[tuple[bytes, Bytes]]] = []
    answered = threading.Event()

    def done(found: list[tuple[bytes, Bytes]]) -> None:
        answers.append(found)
        answered.set()

    names = [name(number) for number in numbers]
    tier.fetch(names, dict.fromkeys(names, key), done)
    assert answered.wait(PATIENCE)
    assert len(answers) == 1, "answered twice"
    return answers[0]


def assert_intact(found: Sequence[tuple[bytes, Bytes]], *numbers: int) -> None:
    assert [which for which, _ in found] == [name(number) for number in numbers]
    for (_, content), number in zip(found, numbers, strict=True):
        assert np.array_equal(content, payload(number))
