"""Whether a replica that keeps failing is asked. Pure: a circuit breaker (Nygard, "Release It!", 2007).

    closed ──so many failures in a row──► open ──its time is over──► half open ──one request succeeds──► closed
                                           ▲                              │
                                           └──────it fails: twice as long─┘

The supervisor restarts a worker that dies; this is about one that lives and fails, or dies again and again.
"""

from enum import StrEnum

FAILURES = 5
"""In a row, before the first token."""

FIRST_SECONDS = 5.0
LONGEST_SECONDS = 120.0


class State(StrEnum):
    CLOSED = "closed"
    """All is well."""
    OPEN = "open"
    """Nobody asks it while anyone else can answer."""
    HALF_OPEN = "half_open"
    """One request at a time tries it."""


class Breaker:
    """Of one replica. Times are seconds of a clock that does not go back."""

    __slots__ = ("_failures", "_most", "_opened", "_probing", "_until")

    def __init__(self, failures: int = FAILURES) -> None:
        """It opens after so many in a row."""
        self._most = failures
        self._failures = 0
        self._opened = 0
        """How often it opened since it was closed last."""
        self._until = 0.0
        self._probing = False

    def state(self, now: float) -> State:
        if not self._opened:
            return State.CLOSED
        return State.OPEN if now < self._until else State.HALF_OPEN

    @property
    def suspicious(self) -> bool:
        """It has failed since it succeeded last."""
        return self._failures > 0

    def lets_pass(self, now: float) -> bool:
        """Whether another request may be sent there."""
        state = self.state(now)
        return state is State.CLOSED or (state is State.HALF_OPEN and not self._probing)

    def began(self, now: float) -> None:
        """A request is sent there."""
        self._probing = self.state(now) is State.HALF_OPEN

    def succeeded(self) -> None:
        self._failures = self._opened = 0
        self._probing = False

    def failed(self, now: float) -> None:
        self._probing = False
        self._failures += 1
        if self._failures >= self._most or self._opened:
            seconds = min(LONGEST_SECONDS, FIRST_SECONDS * 2**self._opened)
            self._opened += 1
            self._until = now + seconds

    def withdrawn(self) -> None:
        """A request came to nothing that says anything: its client left, or it was wrong itself."""
        self._probing = False
