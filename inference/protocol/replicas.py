"""Replicas on a node: which of them gateways wait for and use, and how the supervisor says they are."""

from enum import StrEnum

import msgspec

from inference.protocol.loads import LoadView
from inference.protocol.parameters import ModelSpec


class Subscribe(msgspec.Struct, frozen=True, kw_only=True, tag="subscribe"):
    protocol: int


class Demand(msgspec.Struct, frozen=True, kw_only=True, tag="demand"):
    """A request waits for this version. Idempotent; repeated while anyone waits, and it renews the idle timer."""

    spec: ModelSpec


class InUse(msgspec.Struct, frozen=True, kw_only=True, tag="in_use"):
    """Versions that served requests since the last report: their idle timers start again."""

    versions: tuple[int, ...]


class ReplicaState(StrEnum):
    """The life of a replica on a node. ``failed`` waits out its back-off and may then be loaded again."""

    COLD = "cold"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class ReplicaView(msgspec.Struct, frozen=True, kw_only=True):
    version_pk: int
    model: str
    version: str
    state: ReplicaState
    reason: str
    """Why it is in this state, in words for an operator."""
    socket: str | None
    """The worker's Unix socket on its node; set while ``ready`` or ``draining``."""
    node: str = ""
    """Whose replica it is."""
    progress: float
    """0–1 while loading."""
    since: float
    """Seconds since the epoch at which the state began."""
    retry_at: float | None = None
    """While ``failed``: when the next load is allowed, in seconds since the epoch."""
    place: int = 0
    """In the line of those who wait for memory, from 1; 0: it does not stand there."""
    never_fits: bool = False
    """While ``failed``: the node has not enough memory for it, as ``reason`` reckons up, and a retry can't help."""
    load: LoadView | None = None
    """How far its load is, or its wait for one. None: there is neither."""


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be known of a node to choose one for a model that is to be loaded."""

    ram_bytes: int | None = None
    """For models, their KV and its cache. None: no account is kept of it."""
    taken_bytes: int = 0
    """Of them, by the models that are there."""
    takes: bool = True
    """New models may be loaded there: it is neither cordoned nor about to end."""
    ends: bool = False
    """Its supervisor is about to end. Another one may follow, as after an upgrade: who can wait, waits."""


class Replicas(msgspec.Struct, frozen=True, kw_only=True, tag="replicas"):
    """The complete view of this node; what is not named is cold."""

    replicas: tuple[ReplicaView, ...]
    node: NodeView = NodeView()


class Pressure(msgspec.Struct, frozen=True, kw_only=True, tag="pressure"):
    """Whether the node is about to run out of memory."""

    reason: str
    """With the numbers, for operators and clients. Empty: it is not."""
