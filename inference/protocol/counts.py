"""What is counted: by a gateway (Counted), by a worker (WorkerCounts), and summed by the supervisor for all (Sums)."""

import msgspec

from inference.protocol.cache import Timing
from inference.protocol.durations import Durations
from inference.protocol.routing import RoutingCounts


class WorkerCounts(msgspec.Struct, frozen=True, kw_only=True, tag="counts"):
    """What a worker has done since it began. Told to the supervisor, at most every 250 ms."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of those, not computed."""
    completion_tokens: int = 0
    queue_wait: Durations = Durations()
    """From a request's arrival at the worker to its first prefill."""
    token_gap: Durations = Durations()
    """Between two tokens of one answer, as they leave."""


class RequestCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that were routed to a model and have ended."""

    requests: int = 0
    """All of them."""
    cancelled: int = 0
    """By clients that left."""
    errors: dict[str, int] = {}
    """By the code that the client was told."""
    first_token: Durations = Durations()
    """From the gateway's decision to the first token, queues and load included. Of those that were answered."""
    elsewhere: WorkerCounts = WorkerCounts()
    """What backends elsewhere did for them, as far as their gateway can tell. Of sums it is a part of the work."""


class ServedCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the requests that the worker of a version was asked for, and that ended by themselves."""

    requests: int = 0
    faults: int = 0
    """Of those: the worker failed at them, or was lost. Also where another one answered in the end."""
    first_token: Durations = Durations()
    """From the first prefill to the first token: without queues and load."""


class GatewayCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What a gateway did beside answering: how often a request, or what it prepares for others, needed somebody else
    for limits' sake, and, under ``NOPENAI_PROFILE``, how long its part took; and what became of its spans."""

    lease_refills: int = 0
    """Parts of a window that PostgreSQL was asked for."""
    permit_requests: int = 0
    """Requests for which the supervisor was asked whether they may run."""
    spans_exported: int = 0
    """That a collector of traces has."""
    spans_dropped: int = 0
    """That none will get: it was away for too long, or there were too many."""
    reserve_timing: Timing = Timing()
    settle_timing: Timing = Timing()


class Counted(msgspec.Struct, frozen=True, kw_only=True, tag="counted"):
    """What a gateway has counted since it told so last."""

    models: dict[str, RequestCounts]
    gateway: GatewayCounts = GatewayCounts()
    routing: RoutingCounts = RoutingCounts()
    served: dict[int, ServedCounts] = {}
    """By the version's primary key."""


class ModelSums(msgspec.Struct, frozen=True, kw_only=True):
    """What was counted of one model on this node, over all gateways, and all workers of all its versions."""

    model: str
    requests: RequestCounts = RequestCounts()
    work: WorkerCounts = WorkerCounts()
    load_time: Durations = Durations()
    """From the start of a worker until it was ready."""
    restarts: int = 0
    """Starts after a failure."""


class PermitSum(msgspec.Struct, frozen=True):
    """How a limit on concurrent requests stands."""

    subject: str
    out: int
    """Permits that requests have, or that a gateway keeps for a moment."""
    limit: int


class Sums(msgspec.Struct, frozen=True, kw_only=True, tag="sums"):
    """All counters of this node: every gateway process shows the same. They never go back while the supervisor
    lives, and begin with it."""

    models: tuple[ModelSums, ...]
    gateways: GatewayCounts = GatewayCounts()
    routing: RoutingCounts = RoutingCounts()
    permits: tuple[PermitSum, ...] = ()
    """Of subjects that have any out."""
