"""What can happen to the supervisor, and what it can do about it."""

import msgspec

from inference.protocol import EngineParameters, ModelSpec, WorkerStatus
from inference.supervisor.fit import Option
from inference.supervisor.replica import Desired, Observation

# --- Events in -------------------------------------------------------------------------------------------------------


class Demanded(msgspec.Struct, frozen=True):
    """A gateway has a request for this version."""

    spec: ModelSpec


class Used(msgspec.Struct, frozen=True):
    """Gateways report that these versions served requests."""

    versions: tuple[int, ...]


class Wish(msgspec.Struct, frozen=True):
    spec: ModelSpec
    desired: Desired


class WishesRead(msgspec.Struct, frozen=True, kw_only=True):
    """SQL was read. Versions that are not named have no row on this node, though all that we recorded do."""

    read_at: float
    """Before the reading began. What we recorded and revived before then had been written when it was made."""
    wishes: tuple[Wish, ...]


class WorkerSpawned(msgspec.Struct, frozen=True, kw_only=True):
    worker: int
    pid: int
    size_bytes: int
    """Of the model's files."""


class WorkerReported(msgspec.Struct, frozen=True):
    worker: int
    status: WorkerStatus


class WorkerBusy(msgspec.Struct, frozen=True):
    """The worker says how many requests it has, running or waiting."""

    worker: int
    requests: int


class WorkerCached(msgspec.Struct, frozen=True):
    """The worker says of how many tokens only its memory holds the KV, beyond its cells."""

    worker: int
    tokens: int


class Weighed(msgspec.Struct, frozen=True):
    """What a version would take is known, or known better than before."""

    spec: ModelSpec
    options: tuple[Option, ...]
    """One at least, the largest first."""


class WorkerExited(msgspec.Struct, frozen=True):
    """The process is gone, or never came to be."""

    worker: int
    reason: str


class Tick(msgspec.Struct, frozen=True):
    """Time has passed."""


class Closing(msgspec.Struct, frozen=True):
    """The supervisor ends."""


WorkerEvent = WorkerSpawned | WorkerReported | WorkerBusy | WorkerCached | WorkerExited
Event = Demanded | Used | WishesRead | WorkerEvent | Weighed | Tick | Closing

# --- Actions out -----------------------------------------------------------------------------------------------------


class Start(msgspec.Struct, frozen=True):
    worker: int
    spec: ModelSpec
    smaller: EngineParameters = EngineParameters()
    """What makes it smaller than the engine would choose."""


class Weigh(msgspec.Struct, frozen=True):
    """Find out what a version would take; :class:`Weighed` answers."""

    spec: ModelSpec


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    worker: int
    kill: bool
    """SIGKILL instead of SIGTERM."""


class Record(msgspec.Struct, frozen=True):
    """Write to SQL what is now."""

    observation: Observation


class Revive(msgspec.Struct, frozen=True):
    """Write to SQL that this version is no longer ``stopped`` but ``on_demand``, since somebody asked for it."""

    version_pk: int


class Publish(msgspec.Struct, frozen=True):
    """Tell the gateways what is now."""


Action = Start | Weigh | Stop | Record | Revive | Publish
