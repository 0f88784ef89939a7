"""What happens in the SSD tier: counted, and told to whoever wants to know."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import structlog

log = structlog.get_logger(module="cache")

T = TypeVar("T")


class DiskEventKind(StrEnum):
    STORED = "stored"
    EVICTED = "evicted"
    """Pushed out by newer blocks or a smaller budget."""
    DROPPED = "dropped"
    """Not written: beyond the rate, the day's budget or the queue, or writing is off."""
    DAMAGED = "damaged"
    """Not readable; its file is gone."""
    BUDGET = "budget"
    """A new budget is in force."""
    OFF = "off"
    """Nothing is written until ON."""
    ON = "on"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskEvent:
    kind: DiskEventKind
    name: bytes = b""
    """The block's, of the first four."""
    bytes: int = 0
    """Of its file."""
    reason: str = ""


class Events:
    """The tier's thread notes them and tells them once its report knows of them; :meth:`tell_now` is for others."""

    def __init__(self, on_event: Callable[[DiskEvent], None]) -> None:
        self._on_event = on_event
        self._untold: list[DiskEvent] = []
        self._counting = threading.Lock()
        self.dropped = 0
        """Blocks, of DROPPED and DAMAGED."""
        self.evicted = 0
        self.written_bytes = 0

    def note(self, event: DiskEvent) -> None:
        self._count(event)
        self._untold.append(event)

    def tell(self) -> None:
        """All that was noted."""
        events, self._untold = self._untold, []
        for event in events:
            call(self._on_event, event)

    def tell_now(self, event: DiskEvent) -> None:
        self._count(event)
        call(self._on_event, event)

    def _count(self, event: DiskEvent) -> None:
        with self._counting:
            match event.kind:
                case DiskEventKind.STORED:
                    self.written_bytes += event.bytes
                case DiskEventKind.EVICTED:
                    self.evicted += 1
                case DiskEventKind.DROPPED | DiskEventKind.DAMAGED:
                    self.dropped += 1


def call(told: Callable[[T], None], news: T) -> None:
    """Whoever is told must not take the tier with him if he fails."""
    try:
        told(news)
    except Exception:  # his code, not ours: nobody here knows what it raises
        log.exception("What the SSD cache told somebody failed there")
