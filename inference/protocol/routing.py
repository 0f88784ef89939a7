"""What is counted of routing, by a gateway, and summed by the supervisor for all; and what gateways tell each other."""

import msgspec

from inference.protocol.durations import Durations

ROUTING_BOUNDS_SECONDS = tuple(float(f"{digit}e{power}") for power in range(-7, -3) for digit in (1, 1.5, 2, 3, 5, 7))
"""From 0.1 µs to 0.7 ms."""


class VariantSums(msgspec.Struct, frozen=True, kw_only=True):
    """Of the requests that were drawn for one variant of an A/B test and have ended. Logarithms are natural ones."""

    requests: int = 0
    errors: int = 0
    """Faults of the server that the client was told of."""
    unavailable: int = 0
    """The other variant had to answer."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    generation_seconds: float = 0.0
    first_token: Durations = Durations()
    """Of its own answers."""
    first_token_log: float = 0.0
    first_token_log_squares: float = 0.0
    token_gaps: int = 0
    """Answers that have more than one token: of the seconds for each further one these are the logarithms."""
    token_gap_log: float = 0.0
    token_gap_log_squares: float = 0.0


class ExperimentSums(msgspec.Struct, frozen=True, kw_only=True):
    """Of one A/B test."""

    a: VariantSums = VariantSums()
    b: VariantSums = VariantSums()


class RoutingCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Requests for which the router had a choice, and those that named their model."""

    strategies: dict[str, int] = {}
    """Requests, by the strategy of their route."""
    routes: dict[str, int] = {}
    """The same, by the route."""
    models: dict[str, int] = {}
    """By the model that was chosen."""
    named: int = 0
    """Requests that named their model; they are counted here only."""
    failed: int = 0
    """Nobody could answer."""
    fallbacks: int = 0
    """Another model answered than the one that was chosen, or there was none to choose."""
    seconds: float = 0.0
    """What the decisions took, all together."""
    timing: tuple[int, ...] = ()
    """How many took at most the bound of :data:`ROUTING_BOUNDS_SECONDS` at this place, and more than the one before;
    last, longer. Empty: none."""
    tests: dict[str, dict[str, ExperimentSums]] = {}
    """A/B tests, by name, and of each what came under each of its splits, in words: the newest last. What came under
    different ones can't be told in one sum: when a variant's share changes, what else is going on has changed, too."""


class Stray(msgspec.Struct, frozen=True):
    """A session that keeps to a model where those who do not know it would not look for it."""

    session: str
    model: str
    used_at: float
    """When it came last: seconds of the machine's monotonic clock."""


class Strays(msgspec.Struct, frozen=True, kw_only=True, tag="strays"):
    """Sessions of one route, told when its candidates change, to all other gateways of the node."""

    route: str
    sessions: tuple[Stray, ...]


class Sampled(msgspec.Struct, frozen=True, kw_only=True, tag="sampled"):
    """A decision with all that there was to choose from, told to all other gateways of the node."""

    sample: bytes
    """JSON, as operators see it."""
