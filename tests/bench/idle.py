"""Whether an installation is at rest."""

import time
from pathlib import Path

from tests.installation import Installation

_LOOK_SECONDS = 0.5
_MOST_TICKS = 3
"""Of 10 ms."""


def idle(ours: Installation) -> bool:
    """None of its processes computes: what was in the background is over."""
    before = _cpu_ticks(ours)
    time.sleep(_LOOK_SECONDS)
    return _cpu_ticks(ours) - before <= _MOST_TICKS


def _cpu_ticks(ours: Installation) -> int:
    total = 0
    for pid in ours.processes():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total
