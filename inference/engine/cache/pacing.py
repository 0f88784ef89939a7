"""How much may be written to SSD, and how fast: flash wears. Pure; the caller brings the time."""

from dataclasses import dataclass
from datetime import UTC, datetime

BURST_SECONDS = 1.0


class TokenBucket:
    """A rate in bytes per second, with bursts of one second's worth.

    A write may start while the level is not below zero and then takes its whole size, so a block larger than the burst
    passes too, and in any ``t`` seconds less than ``rate × (t + 1)`` bytes + one block are written.
    """

    def __init__(self, bytes_per_second: int, now: float) -> None:
        self._rate = bytes_per_second
        self._level = bytes_per_second * BURST_SECONDS
        self._filled_at = now

    def set_rate(self, bytes_per_second: int, now: float) -> None:
        self._fill(now)
        self._rate = bytes_per_second
        self._level = min(self._level, bytes_per_second * BURST_SECONDS)

    def seconds_until_free(self, now: float) -> float:
        """0: a write may start. At a rate of 0 that is never: it says an hour, time and again."""
        self._fill(now)
        return max(0.0, -self._level / self._rate) if self._rate > 0 else 3600.0

    def take(self, size: int) -> None:
        self._level -= size

    def _fill(self, now: float) -> None:
        self._level = min(self._rate * BURST_SECONDS, self._level + self._rate * (now - self._filled_at))
        self._filled_at = now


@dataclass(frozen=True, slots=True)
class DayCount:
    """Bytes written on one UTC day."""

    day: str = ""
    """ISO 8601."""
    bytes: int = 0

    def plus(self, size: int, limit: int, now: float) -> "DayCount | None":
        """The count with ``size`` more bytes written at ``now`` (seconds since the epoch); None: that is too much."""
        day = datetime.fromtimestamp(now, UTC).date().isoformat()
        written = size + (self.bytes if day == self.day else 0)
        return DayCount(day, written) if written <= limit else None


RECORD_BYTES = 32


def encode(count: DayCount) -> bytes:
    """Always 32 bytes, so that one write at offset 0 replaces the record."""
    return f"{count.day:<10} {count.bytes:020d}\n".encode()


def decode(record: bytes) -> DayCount:
    """What does not read as a record counts as nothing written: a power cut can lose it, and wear is no matter of one
    day."""
    day, _, written = record.decode("ascii", "replace").strip().partition(" ")
    if len(record) != RECORD_BYTES or not (written.isascii() and written.isdigit()):
        return DayCount()
    return DayCount(day, int(written))
