"""Permits on their way: what gateways ask of :class:`inference.supervisor.permits.PermitOffice`, and what it has them
told. Belongs to the running loop; times are its clock's."""

import asyncio
from collections.abc import Callable, Sequence

from inference.protocol import Acquire, Holding, Limits, PermitAnswer, PermitRequest, Release, Withdraw
from inference.supervisor.permits import GRACE_SECONDS, Effect, PermitOffice


class Permitting:
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.office = PermitOffice(self._loop.time())
        self._gateways: dict[int, Callable[[PermitAnswer], None]] = {}
        self._opening = self._loop.call_later(GRACE_SECONDS, self._open)
        self._last_gateway = 0

    def connected(self, tell: Callable[[PermitAnswer], None]) -> int:
        """A gateway, and how it is told something: its number."""
        self._last_gateway += 1
        self._gateways[self._last_gateway] = tell
        return self._last_gateway

    def disconnected(self, gateway: int) -> None:
        del self._gateways[gateway]
        self._carry_out(self.office.gone(gateway, self._loop.time()))

    def received(self, gateway: int, request: PermitRequest) -> None:
        now = self._loop.time()
        match request:
            case Acquire():
                self._carry_out(self.office.acquire(gateway, request, now))
            case Withdraw(ticket=ticket):
                self._carry_out(self.office.withdraw(gateway, ticket, now))
            case Release(counts=counts):
                self._carry_out(self.office.release(gateway, counts, now))
            case Holding(counts=counts):
                self.office.holding(gateway, counts)
            case Limits(revision=revision, limits=limits):
                self._carry_out(self.office.limits(revision, limits, now))

    def close(self) -> None:
        self._opening.cancel()

    def _open(self) -> None:
        self._carry_out(self.office.open(self._loop.time()))

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for gateway, answer in effects:
            if (tell := self._gateways.get(gateway)) is not None:
                tell(answer)
