"""A sample of live decisions, each with all that there was to choose from."""

import time
from collections import deque
from collections.abc import Callable, Iterator

import msgspec

from inference.protocol import Sampled
from routing.ask import Ask
from routing.decision import Decision, Explanation
from routing.router import Router

EVERY_SECONDS = 1.0
"""At most so often a decision is explained: with thousands of candidates that takes some ms."""

_MOST = 64
_MOST_CANDIDATES = 20


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    at: float
    """Seconds since the epoch."""
    request_id: str
    microseconds: float
    """What the decision took."""
    explanation: Explanation


class Samples:
    """Of this gateway process, and of the others as far as the supervisor tells. Owned by the event loop."""

    def __init__(self, relay: Callable[[Sampled], None]) -> None:
        """``relay`` tells the other gateways."""
        self._relay = relay
        self._newest: deque[msgspec.Raw] = deque(maxlen=_MOST)
        """As JSON."""
        self._due = 0.0

    def explain_if_due(self, router: Router, ask: Ask) -> Explanation | None:
        """Before the decision is made: it changes what was to choose from."""
        if ask.now < self._due:
            return None
        self._due = ask.now + EVERY_SECONDS
        return router.explain(ask)

    def add(self, explanation: Explanation, decision: Decision, request_id: str) -> None:
        """What was chosen then."""
        sample = Sample(
            at=time.time(),
            request_id=request_id,
            microseconds=round(decision.microseconds, 2),
            explanation=msgspec.structs.replace(
                explanation,
                chosen=decision.version.name,
                variant=decision.variant or "",
                candidates=explanation.candidates[:_MOST_CANDIDATES],
                refused=explanation.refused[:_MOST_CANDIDATES],
            ),
        )
        sampled = Sampled(sample=msgspec.json.encode(sample))
        self.accept(sampled)
        self._relay(sampled)

    def accept(self, sampled: Sampled) -> None:
        """Of this gateway or another one."""
        self._newest.append(msgspec.Raw(sampled.sample))

    def newest_first(self) -> Iterator[msgspec.Raw]:
        return reversed(self._newest)
