"""Why nothing is written to SSD at the moment, and when it is tried again. Pure."""

from dataclasses import dataclass

FIRST_RETRY_SECONDS = 5.0
LONGEST_RETRY_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Outage:
    reason: str
    retry_at: float
    """Seconds since the epoch."""
    attempts: int

    def is_over(self, now: float) -> bool:
        """It may be tried again. A clock that was set back does not prolong the wait beyond the longest one."""
        return now >= self.retry_at or now < self.retry_at - LONGEST_RETRY_SECONDS


def after(fault: OSError, before: Outage | None, now: float) -> Outage:
    """The outage that begins, or goes on, with ``fault``. Each attempt doubles the wait for the next."""
    attempts = before.attempts + 1 if before is not None else 1
    seconds = min(FIRST_RETRY_SECONDS * 2 ** (attempts - 1), LONGEST_RETRY_SECONDS)
    where = f"{fault.filename}: " if fault.filename else ""
    reason = f"{where}{fault.strerror or fault}; nothing is written for {seconds:.0f} s, then it is tried again"
    return Outage(reason, now + seconds, attempts)
