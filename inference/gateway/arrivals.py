"""What is recorded of requests, where the operator wants it (``NOPENAI_RECORD_ARRIVALS``), to be replayed through other
strategies (:mod:`routing.replay`). Some 1 µs for each request of the event loop's time; all else is the thread's
(:mod:`inference.gateway.arrivals_thread`)."""

import time
from collections.abc import Iterable
from typing import Protocol

import msgspec

from inference.gateway.admitted import Applicant
from inference.gateway.dispatch import Answer
from inference.gateway.workers import StreamMessage, WorkerConnection
from inference.protocol import CacheView
from registry.catalogue import Catalogue
from routing.config import Routing
from routing.replay.records import FLEET_SECONDS, Facts, Fleet
from routing.targets import Target, Targets

MOST_PENDING = 10_000
"""Requests of one second; of more, the later ones are not recorded."""

_BLOCK_TOKENS = 64


class Ended(msgspec.Struct, gc=False):
    """A request that is over. It holds the request itself, for a second."""

    at: float
    """When it came: seconds since the epoch."""
    applicant: Applicant
    model: str
    """That answered, or was asked last."""
    last: StreamMessage | None
    """Of its worker's. None: it said nothing."""
    first_token: float
    failed: bool


class ArrivalFeed(Protocol):
    """Who writes them: :class:`inference.gateway.arrivals_thread.ArrivalThread`."""

    def start(self) -> None: ...
    def write(self, batch: list[Ended | Fleet]) -> None: ...
    async def stop(self) -> None: ...


class ArrivalBook:
    """What has ended since it was taken last. Owned by the event loop."""

    def __init__(self) -> None:
        self._pending: list[Ended | Fleet] = []
        self._fleet = Fleet(at=0.0)
        self._fleet_due = 0.0

    def ended(self, applicant: Applicant, answer: Answer | None, *, failed: bool) -> None:
        if len(self._pending) >= MOST_PENDING:
            return
        at = time.time() - (time.monotonic() - applicant.ask.now)
        if answer is None:
            ended = Ended(at, applicant, applicant.model, None, 0.0, failed)
        else:
            last, seconds = answer.messages[-1], answer.first_token_seconds
            ended = Ended(at, applicant, answer.version.model, last, seconds, failed)
        self._pending.append(ended)

    def look(
        self,
        catalogue: Catalogue,
        routing: Routing,
        targets: Targets,
        workers: Iterable[WorkerConnection],
        caches: Iterable[CacheView],
    ) -> None:
        """To be called every second: who is ready, and how it stands."""
        now = time.time()
        if now < self._fleet_due:
            return
        self._fleet_due = now + FLEET_SECONDS
        fleet = Fleet(at=now, models=_models(catalogue, targets, workers, caches), routing=routing)
        if (fleet.models, fleet.routing) != (self._fleet.models, self._fleet.routing):
            self._fleet = fleet
            self._pending.append(fleet)

    def take(self) -> list[Ended | Fleet]:
        taken, self._pending = self._pending, []
        return taken


def _models(
    catalogue: Catalogue, targets: Targets, workers: Iterable[WorkerConnection], caches: Iterable[CacheView]
) -> dict[str, Facts]:
    views = {each.version_pk: each for each in caches}
    cells = {
        each.replica.version_pk: each.hello.result().kv_tokens
        for each in workers
        if not each.closed and each.hello.done()
    }
    found = {}
    for target in targets:
        if not target.warm or (model := catalogue.models.get(target.version.model)) is None:
            continue
        if model.promoted is not None and model.promoted.pk == target.version.pk:
            pk = target.version.pk
            found[model.id] = _facts(target, model.starter, cells.get(pk, 0), views.get(pk))
    return found


def _facts(target: Target, starter: bool, kv_tokens: int, cache: CacheView | None) -> Facts:
    version = target.version
    return Facts(
        version=version.version,
        capabilities=tuple(sorted(version.capabilities)),
        context_length=version.context_length,
        starter=starter,
        lanes=target.lanes,
        kv_tokens=kv_tokens,
        cache_tokens=None if cache is None else _cache_tokens(cache),
        quota_used=round(target.quota_used, 3),
        quota_late=target.quota_late,
        exhausted=target.exhausted,
    )


def _cache_tokens(view: CacheView) -> int | None:
    """What it may keep, by the size of the blocks that it has."""
    limit_bytes = view.ram.limit_bytes + view.ssd.limit_bytes
    if not limit_bytes:
        return 0
    ram, ssd = view.cache.ram, view.cache.ssd
    blocks, held_bytes = ram.blocks + ssd.blocks, ram.bytes + ssd.bytes
    return round(limit_bytes * blocks / held_bytes) * _BLOCK_TOKENS if held_bytes else None
