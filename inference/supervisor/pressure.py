"""Whether the node is about to run out of memory: gateways then serve urgent requests only."""

import asyncio
from collections.abc import Callable

import structlog

from inference.memory import available_bytes, total_bytes
from inference.protocol import Pressure

log = structlog.get_logger(module="supervisor")

ENTER_SHARE = 0.03
"""Less than this part of the memory is available: pressure begins."""
LEAVE_SHARE = 0.06
"""More than this part is: it ends."""

_LOOK_SECONDS = 1.0


def pressed_after(before: bool, available: int, total: int) -> bool:
    """Whether memory is short, when it was, or was not, a moment ago. Pure."""
    return available < (LEAVE_SHARE if before else ENTER_SHARE) * total


class MemoryWatch:
    """Belongs to the running loop."""

    def __init__(
        self,
        publish: Callable[[], None],
        *,
        available: Callable[[], int] = available_bytes,
        total: Callable[[], int] = total_bytes,
    ) -> None:
        """``publish`` is called when :meth:`view` has changed."""
        self._publish = publish
        self._available = available
        self._total = total
        self._reason = ""

    def view(self) -> Pressure:
        return Pressure(reason=self._reason)

    async def run(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(_LOOK_SECONDS)

    def look(self) -> None:
        available, total = self._available(), self._total()
        before = bool(self._reason)
        pressed = pressed_after(before, available, total)
        if pressed and not before:
            self._reason = f"{available >> 20} MB of this node's {total >> 20} MB of memory are left"
            log.warning("Memory is short", available_mb=available >> 20, total_mb=total >> 20)
            self._publish()
        elif before and not pressed:
            self._reason = ""
            log.info("Memory is no longer short", available_mb=available >> 20, total_mb=total >> 20)
            self._publish()
