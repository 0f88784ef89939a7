"""What a worker tells of itself: gateways, how busy it is and what it holds; its supervisor, how far its load is."""

from enum import StrEnum

import msgspec


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    protocol: int
    model: str
    version: str
    context_tokens: int
    """Longest prompt + completion of one request."""
    max_sequences: int
    """Requests that are decoded together; more of them wait in the worker's queue."""
    kv_tokens: int = 0
    """Tokens whose KV all running sequences together may have in RAM. 0: it does not say."""
    pid: int


class WorkerLoad(msgspec.Struct, frozen=True, kw_only=True, tag="load"):
    running: int
    waiting: int


class HeldPrefixes(msgspec.Struct, frozen=True, kw_only=True, tag="prefixes"):
    """Beginnings of prompts that a worker need not compute again, by their links (:mod:`inference.prefixes`): what has
    changed since the last one, at most every 250 ms. A connection begins with all of them."""

    added: dict[bytes, int] = {}
    """About how many tokens each is; for what was added before, how many it is now."""
    removed: tuple[bytes, ...] = ()


class WorkerStage(StrEnum):
    LOADING = "loading"
    """Its weights are read: ``progress`` says how much of them."""
    WARMING = "warming_up"
    """It allocates its KV cells, and computes a first token."""
    READY = "ready"
    FAILED = "failed"


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True, tag="status"):
    """One line of JSON on the worker's standard output. After ``failed`` the worker exits with status 1."""

    stage: WorkerStage
    progress: float = 0.0
    reason: str = ""
