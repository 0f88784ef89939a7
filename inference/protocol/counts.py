"""What is counted: by a gateway (Counted), by a worker (WorkerCounts), and summed by the supervisor for all (Sums)."""

import msgspec

DURATION_BOUNDS_SECONDS = tuple(float(f"{digit}e{power}") for power in range(-3, 3) for digit in (1, 2.5, 5))
"""From 1 ms to 500 s."""


class Durations(msgspec.Struct, frozen=True, kw_only=True):
    """How long something took each time, as a histogram, which can be summed over processes."""

    counts: tuple[int, ...] = ()
    """How often it took at most the bound of :data:`DURATION_BOUNDS_SECONDS` at this place, and more than the one
    before; last, longer than all of them. Empty: it never happened."""
    seconds: float = 0.0
    """All of it together."""


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


class Counted(msgspec.Struct, frozen=True, kw_only=True, tag="counted"):
    """What a gateway has counted, by model, since it told so last."""

    models: dict[str, RequestCounts]


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


class ModelSums(msgspec.Struct, frozen=True, kw_only=True):
    """What was counted of one model on this node, over all gateways, and all workers of all its versions."""

    model: str
    requests: RequestCounts = RequestCounts()
    work: WorkerCounts = WorkerCounts()
    load_time: Durations = Durations()
    """From the start of a worker until it was ready."""
    restarts: int = 0
    """Starts after a failure."""


class Sums(msgspec.Struct, frozen=True, kw_only=True, tag="sums"):
    """All counters of this node: every gateway process shows the same. They never go back while the supervisor
    lives, and begin with it."""

    models: tuple[ModelSums, ...]
