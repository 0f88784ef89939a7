"""``/cache/stats`` and ``/metrics/cache``: this node's KV caches, from memory.

For operators only, where keys are required: who may watch hits and misses could learn what others have asked.
"""

from typing import Any
from urllib.parse import parse_qs

import msgspec

from inference.gateway.asgi import JSON
from inference.gateway.cache_report import cache_report, timings
from inference.gateway.call import Call
from inference.gateway.models_api import timestamp
from inference.gateway.state import GatewayState
from inference.gateway.supervisor_link import SupervisorLink
from inference.gateway.workers import WorkerPool
from registry.errors import InvalidRequest

_encode = msgspec.json.Encoder().encode
_WORDS = {"true": True, "1": True, "false": False, "0": False}
PROFILING_OFF = "Profiling is off: start the server with NOPENAI_PROFILE=1 to see how long each stage takes."


class CacheApi:
    def __init__(
        self, state: GatewayState, supervisor: SupervisorLink, workers: WorkerPool, *, node_name: str, profile: bool
    ) -> None:
        self._state = state
        self._supervisor = supervisor
        self._workers = workers
        self._node_name = node_name
        self._profile = profile

    async def stats(self, call: Call) -> None:
        await call.answer(200, [JSON], _encode(self._report()))

    async def metrics(self, call: Call) -> None:
        report = self._report()
        if detailed(call):
            report["profiling"] = timings(self._supervisor.caches) if self._profile else PROFILING_OFF
        await call.answer(200, [JSON], _encode(report))

    def _report(self) -> dict[str, Any]:
        caches = self._supervisor.caches
        models = [model.id for model in self._state.current().catalogue.models.values() if model.alias_of is None]
        return {
            "node": self._node_name,
            "since": timestamp(caches.since) if caches else None,
            "supervisor": {
                "reachable": self._supervisor.connected,
                "since": timestamp(self._supervisor.since),
            },
            **cache_report(caches, models, self._held_prefixes()),
        }

    def _held_prefixes(self) -> dict[str, int]:
        held: dict[str, int] = {}
        for worker in self._workers:
            held[worker.replica.model] = held.get(worker.replica.model, 0) + len(worker.held)
        return held


def detailed(call: Call) -> bool:
    """Raises InvalidRequest."""
    raw = parse_qs(call.scope["query_string"].decode("latin-1"), keep_blank_values=True).get("detailed", ["false"])[-1]
    if raw.lower() not in _WORDS:
        raise InvalidRequest(f"'detailed' is true or false, not {raw[:50]!r}.", param="detailed")
    return _WORDS[raw.lower()]
