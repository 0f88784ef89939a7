"""How often, at most, others are told that something has changed."""

import asyncio
import math
from collections.abc import Callable


class Throttle:
    """Does something soon after it was asked to, however often: in the next turn of the loop, or, where it was done a
    moment ago, when ``seconds`` have passed since. Belongs to the running loop."""

    def __init__(self, act: Callable[[], None], seconds: float) -> None:
        self._act = act
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._acted_at = -math.inf
        self._timer: asyncio.TimerHandle | None = None

    def ask(self) -> None:
        if self._timer is None:
            moment = max(self._loop.time(), self._acted_at + self._seconds)
            self._timer = self._loop.call_at(moment, self._run)

    def close(self) -> None:
        """What was asked for and is not done yet is not done any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _run(self) -> None:
        self._timer, self._acted_at = None, self._loop.time()
        self._act()
