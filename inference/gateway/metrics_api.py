"""``GET /metrics``: this node, for Prometheus, from memory. It loads nothing and keeps nothing warm.

For operators only, where keys are required. (Hit rates and counts tell what others do.)
"""

import asyncio
import time
from collections.abc import Mapping

from inference.gateway.asgi import HeaderList
from inference.gateway.call import Call
from inference.gateway.exposition import CONTENT_TYPE, written
from inference.gateway.metrics import Known, WorkerNumbers, metrics
from inference.gateway.quotas_api import QuotasApi
from inference.gateway.state import GatewayState
from inference.gateway.supervisor_link import SupervisorLink
from inference.gateway.workers import WorkerPool
from inference.protocol import WorkerLoad
from routing.experiments.split import shares_of_b

_SLICE_SECONDS = 0.002
"""Written in one turn of the event loop: others' tokens wait no longer."""

_HEADERS: HeaderList = [(b"content-type", CONTENT_TYPE)]
_IDLE = WorkerLoad(running=0, waiting=0)


class MetricsApi:
    def __init__(
        self,
        state: GatewayState,
        supervisor: SupervisorLink,
        workers: WorkerPool,
        quotas: QuotasApi,
        build: Mapping[str, str],
    ) -> None:
        """``build`` names what this server is made of."""
        self._quotas = quotas
        self._state = state
        self._supervisor = supervisor
        self._workers = workers
        self._build = build

    async def metrics(self, call: Call) -> None:
        pieces: list[str] = []
        began = time.perf_counter()
        for metric in metrics(self._known()):
            pieces.append(written(metric))
            if time.perf_counter() - began > _SLICE_SECONDS:
                await asyncio.sleep(0)
                began = time.perf_counter()
        await call.answer(200, list(_HEADERS), "".join(pieces).encode())

    def _known(self) -> Known:
        return Known(
            build=self._build,
            supervisor_connected=self._supervisor.connected,
            models=list(self._state.current().catalogue.models.values()),
            health_checked_at=self._state.health.checked_at,
            replicas=self._supervisor.view,
            workers=[
                WorkerNumbers(
                    model=worker.replica.model,
                    running=(worker.load or _IDLE).running,
                    waiting=(worker.load or _IDLE).waiting,
                    lanes=worker.hello.result().max_sequences,
                    held_prefixes=len(worker.held),
                )
                for worker in self._workers
                if worker.replica.node == self._supervisor.node  # others tell of theirs
            ],
            caches=self._supervisor.caches,
            sums=self._supervisor.sums,
            limits=self._quotas.uses(),
            modes=self._quotas.modes(),
            emergency=self._quotas.emergency,
            shares_of_b=shares_of_b(self._state.current().routing),
        )
