"""How far a load has come, and how long its parts take."""

from enum import StrEnum

import msgspec


class LoadStage(StrEnum):
    """In their order."""

    WAITING = "waiting_for_memory"
    STARTING = "starting"
    """Its process begins: Python, llama.cpp."""
    READING = "reading_weights"
    WARMING = "warming_up"
    """Its KV cells are allocated, and a first token is computed."""


class LoadTier(StrEnum):
    """Where a load begins from, which is what its time depends on most."""

    DISK = "disk"
    PAGE_CACHE = "page_cache"
    """Its weights are in memory already."""
    WARM = "warm"
    """So they are, and a spare worker takes them."""


class LoadSeconds(msgspec.Struct, frozen=True, kw_only=True):
    """By stage."""

    starting: float
    reading: float
    warming: float

    @property
    def total(self) -> float:
        return self.starting + self.reading + self.warming


class LoadView(msgspec.Struct, frozen=True, kw_only=True):
    stage: LoadStage
    since: float
    """Seconds since the epoch at which the stage began."""
    tier: LoadTier
    expected: LoadSeconds
    """As its last loads went."""
    ahead_seconds: float = 0.0
    """While it waits for memory: what the loads of those before it in line are expected to take."""
