"""What exists, as plain frozen values: the registry's part of the gateway's snapshot.

No Django here. :mod:`registry.selectors` builds a :class:`Catalogue` from SQL; the gateway, the router and the
supervisor only ever see these types, so none of them can touch the database by accident.
"""

from enum import StrEnum
from typing import Literal

import msgspec

from registry.nodes.doors import Address
from registry.parameters import Parameters

REVISION_HEADER = "X-NOpenAI-Revision"
"""With it the web process names the revision that a write has led to; the gateway passes the answer on once it serves
that one, so that a client reads what it wrote."""


class Health(StrEnum):
    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    LOADING = "loading"


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable version of a model."""

    pk: int
    """Primary key of its row: the supervisor's and the workers' name for it."""
    model: str
    version: str
    """Semantic version, ``major.minor.patch``."""
    path: str
    """The file or folder that discovery or the operator named; relative to the project's root if it lies below it."""
    files: tuple[str, ...]
    """Absolute paths of the GGUF, its shards in order."""
    size_bytes: int
    architecture: str = ""
    parameter_count: int | None = None
    quantization: str = ""
    context_length: int | None = None
    """Tokens that the model was trained for, from its GGUF."""
    capabilities: frozenset[str] = frozenset()
    health: Health = Health.UNKNOWN
    health_reason: str = ""
    health_checked_at: float | None = None
    """Seconds since the epoch."""
    created: int = 0
    parameters: Parameters = {}
    """llama.cpp's, that operators have set."""
    replicas: int = 1
    """On how many nodes it is loaded, where there are so many."""
    remote: bool = False
    """It is no GGUF: a backend elsewhere answers (:mod:`registry.backends`)."""

    @property
    def name(self) -> str:
        """``<id>@<version>``, as a request may ask for it."""
        return f"{self.model}@{self.version}"


class Model(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    display_name: str
    enabled: bool
    preload: bool
    is_default: bool
    """Chosen as the default. The starter model is not, unless an operator chose it."""
    starter: bool
    """The built-in starter model: ``auto`` uses it only while no other model can answer."""
    created: int
    use_count: int
    versions: dict[str, Version]
    promoted: Version | None
    """The version that ``<id>`` alone means."""
    alias_of: str | None = None
    """Another name of that model (``<Name>:<quantization>`` of the one that ``<Name>`` means). Its versions are that
    model's own, with the same primary keys; ``auto`` passes over aliases, or one model would count twice."""


class Catalogue(msgspec.Struct, frozen=True, kw_only=True):
    revision: int
    """Grows with every change of the registry; two catalogues of one revision are equal."""
    models: dict[str, Model]
    default: Model | None
    """The chosen one, else the starter model standing in, else None."""


class NodeEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that runs a supervisor."""

    name: str
    address: Address | None
    """Of its door. None: no other node can reach it."""


class DesiredReplica(msgspec.Struct, frozen=True, kw_only=True):
    """What a node's supervisor should do with a version."""

    version: Version
    desired: Literal["running", "on_demand", "stopped"]


class Allowed(msgspec.Struct, frozen=True):
    """What a caller may ask for. None: all."""

    models: frozenset[str] | None = None
    """Their ids."""
    routes: frozenset[str] | None = None
    """Their names, such as ``auto``."""


ALL = Allowed()
