"""What this gateway process counts of a node's workers' part in requests, by version, until it tells its supervisor:
models' health is made of it. An answered request costs 1 µs here."""

from inference.durations import Histogram
from inference.gateway.workers import Stream, StreamMessage
from inference.protocol import Embedded, Failed, Finished, ServedCounts

_FAULT_STATUS = 500
"""Others say that the request was wrong, too much, or at the wrong time."""


class _Served:
    __slots__ = ("faults", "first_token", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.faults = 0
        self.first_token = Histogram()


class ServedCounting:
    """Owned by the event loop."""

    def __init__(self) -> None:
        self._versions: dict[int, _Served] = {}

    def failed(self, version_pk: int) -> None:
        """Its worker failed at a request, or was lost."""
        served = self._of(version_pk)
        served.requests += 1
        served.faults += 1

    def ended(self, version_pk: int, stream: Stream, last: StreamMessage) -> None:
        """An answer that had begun is over; ``last``: what its worker said last. One that its client left says
        nothing."""
        if isinstance(last, Finished):
            served = self._of(version_pk)
            served.requests += 1
            served.first_token.observe(last.prefill_seconds)
        elif isinstance(last, Embedded):
            self._of(version_pk).requests += 1
        elif stream.lost or (isinstance(last, Failed) and last.status == _FAULT_STATUS):
            self.failed(version_pk)

    def take(self) -> dict[int, ServedCounts]:
        """What was counted since it was taken last."""
        versions, self._versions = self._versions, {}
        return {
            pk: ServedCounts(requests=of.requests, faults=of.faults, first_token=of.first_token.durations)
            for pk, of in versions.items()
        }

    def _of(self, version_pk: int) -> _Served:
        served = self._versions.get(version_pk)
        if served is None:
            served = self._versions[version_pk] = _Served()
        return served
