"""When to start a crashed child again: pure."""

from dataclasses import dataclass

FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 30.0
HEALTHY_AFTER_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """The exits of one child in a row, none of which came after a healthy stretch."""

    exits: int = 0

    def after_exit(self, *, uptime_seconds: float) -> "Backoff":
        """A child that ran well for a while begins anew: its crash is news, not a habit."""
        return Backoff(1) if uptime_seconds >= HEALTHY_AFTER_SECONDS else Backoff(self.exits + 1)

    @property
    def delay_seconds(self) -> float:
        """0.1 s after the first exit, doubling from there."""
        if self.exits == 0:
            return 0.0
        return min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(self.exits - 1, 30))
