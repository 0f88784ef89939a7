"""How long something took each time."""

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
