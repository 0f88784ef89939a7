"""Whose a session is: where it was before, as long as it comes again in time; else by rendezvous. Pure.

Rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998): each candidate has
a score for each session, and the highest one has it. All gateways agree on it without a word; when a candidate
goes, only its own sessions move; when one comes, it takes its share and no other moves.

A session keeps to its candidate also when one comes whose score is higher: that is a *pin*. Pins agree with rendezvous
until the candidates change, so only those that do not agree any more are told to other gateways (:meth:`Pins.strays`).
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import msgspec

MOST_PINS = 16_384
"""Of one route in one process: of more sessions those are forgotten that were silent longest, which only matters when
candidates change. Clients name sessions, so something must bound them."""

_MIX = 0x9E3779B97F4A7C15
"""2^64 ÷ the golden ratio, odd: multiplying by it spreads bits evenly (Fibonacci hashing)."""
_WORD = (1 << 64) - 1


class Pin(msgspec.Struct):
    """Where a session is."""

    model: str
    used_at: float


def word(name: str) -> int:
    """64 evenly spread bits of a session or a model."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


def rendezvous(session: int, candidates: Sequence[int]) -> int:
    """The index of the candidate that has the highest score for a session; both are words. Some 0.1 µs for each."""
    scores = [((mixed := (session ^ each) * _MIX & _WORD) ^ mixed >> 32) * _MIX & _WORD for each in candidates]
    return scores.index(max(scores))


class Pins:
    """Of one route's sessions."""

    def __init__(self) -> None:
        self._pins: OrderedDict[str, Pin] = OrderedDict()
        """The one that was silent longest comes first."""

    def __len__(self) -> int:
        return len(self._pins)

    def find(self, session: str, since: float) -> Pin | None:
        """Where it is, if it has come since then."""
        pin = self._pins.get(session)
        return None if pin is None or pin.used_at < since else pin

    def used(self, session: str, pin: Pin, now: float) -> None:
        """It has come again."""
        pin.used_at = now
        self._pins.move_to_end(session)

    def put(self, session: str, model: str, now: float) -> None:
        self._pins[session] = Pin(model, now)
        self._pins.move_to_end(session)
        if len(self._pins) > MOST_PINS:
            self._pins.popitem(last=False)

    def adopt(self, session: str, model: str, used_at: float, since: float) -> None:
        """Another gateway says where it is; what came here since then is known better."""
        if self.find(session, since) is None:
            self.put(session, model, used_at)

    def strays(self, models: Sequence[str], since: float) -> Iterator[tuple[str, Pin]]:
        """The sessions that have come since then and are not where rendezvous among these models would have them."""
        words = [word(model) for model in models]
        for session, pin in self._pins.items():
            if pin.used_at >= since and models[rendezvous(word(session), words)] != pin.model:
                yield session, pin
