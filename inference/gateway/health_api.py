"""``/health``, ``/health/live``, ``/health/ready``: open without a key; they load nothing and keep nothing warm.

live   the event loop turns
ready  there is a snapshot to serve from
health all that we know to be wrong, each with its time; degraded is still served, so the status is 200
"""

import time
from typing import Any

import msgspec

from inference.gateway.asgi import JSON
from inference.gateway.call import Call
from inference.gateway.degradation import Degradation
from inference.gateway.models_api import counts_by_state, timestamp
from inference.gateway.nodes import Nodes
from inference.gateway.promises import Promises
from inference.gateway.state import GatewayState
from registry.catalogue import Health, Model

NOT_PROMOTED = "not_promoted"

UNCHECKED_SECONDS = 120.0
"""Models are checked every 30 s; after so long without, whoever should do it does not."""
_ANSWERS = {Health.HEALTHY, Health.DEGRADED, Health.UNKNOWN, Health.LOADING}

_encode = msgspec.json.Encoder().encode


class HealthApi:
    def __init__(self, state: GatewayState, nodes: Nodes, promises: Promises, degradation: Degradation) -> None:
        self._state = state
        self._promises = promises
        self._degradation = degradation
        self._nodes = nodes
        self._own = nodes.own

    async def live(self, call: Call) -> None:
        await call.answer(200, [JSON], _encode({"status": "ok", "checked_at": timestamp(time.time())}))

    async def ready(self, call: Call) -> None:
        self._state.current()  # raises a 503 that says what is missing
        await call.answer(200, [JSON], _encode({"status": "ok", "checked_at": timestamp(time.time())}))

    async def overall(self, call: Call) -> None:
        starting = self._state.snapshot is None
        await call.answer(503 if starting else 200, [JSON], _encode(self._report(time.time())))

    def _report(self, now: float) -> dict[str, Any]:
        snapshot = self._state.snapshot
        reasons = [
            *self._database_reasons(now),
            *self._supervisor_reasons(),
            *self._node_reasons(),
            *self._emergency_reasons(),
            *self._check_reasons(now),
        ]
        models = snapshot.catalogue.models.values() if snapshot else ()
        health = [health_of(model) for model in models if model.enabled]
        if snapshot and not any(known in _ANSWERS for known in health):
            reasons.append("No model can answer: put a GGUF into the models directory, or see GET /v1/models.")
        return {
            "status": "starting" if snapshot is None else "degraded" if reasons else "ok",
            "reasons": reasons,
            "checked_at": timestamp(now),
            "started_at": timestamp(self._state.started_at),
            "database": {
                "reachable": not self._state.database.silent(now),
                "last_contact": timestamp(self._state.database.last),
                "reason": self._state.database.fault,
            },
            "supervisor": {"reachable": self._own.connected, "since": timestamp(self._own.since)},
            "nodes": {link.node: {"reachable": link.connected, "since": timestamp(link.since)} for link in self._nodes},
            "snapshot": {
                "revision": snapshot.catalogue.revision if snapshot else None,
                "loaded_at": timestamp(snapshot.loaded_at) if snapshot else None,
            },
            "quotas": {
                "leasing": not self._promises.away,
                "on_database_loss": self._on_database_loss(),
                "emergency": self._degradation.emergency,
            },
            "health_checked_at": timestamp(self._state.health.checked_at),
            "models": {
                "total": len(models),
                "enabled": sum(model.enabled for model in models),
                "by_health": _counts(health),
                "by_state": counts_by_state(self._state.replicas),
            },
        }

    def _database_reasons(self, now: float) -> list[str]:
        database = self._state.database
        if not database.silent(now):
            return []
        since = f"since {timestamp(database.last)}" if database.last else "since the start"
        why = f" ({database.fault})" if database.fault else ""
        told = [f"PostgreSQL has not answered {since}{why}: requests are served from what was known then."]
        refused = [model for model, policy in self._on_database_loss().items() if policy == "closed"]
        if refused:
            told.append(
                f"Models with limits refuse requests once what was leased of them is spent ({len(refused)} of them; "
                "on_database_loss: closed)."
            )
        return told

    def _check_reasons(self, now: float) -> list[str]:
        last = self._state.health.checked_at
        if self._state.database.silent(now) or now - max(last or 0.0, self._state.started_at) < UNCHECKED_SECONDS:
            return []
        since = f"since {timestamp(last)}" if last else "yet"
        return [f"The health of models has not been checked {since}: does Celery, worker and beat, run?"]

    def _emergency_reasons(self) -> list[str]:
        emergency = self._degradation.emergency
        return [f"Only urgent requests are served: {emergency}."] if emergency else []

    def _on_database_loss(self) -> dict[str, str]:
        """By model that is limited, what becomes of requests when PostgreSQL is away and the leases are spent."""
        limits = self._state.snapshot.limits if self._state.snapshot else {}
        return {
            model: "open" if each.open_without_database else "closed" for model, each in limits.items() if each.accounts
        }

    def _supervisor_reasons(self) -> list[str]:
        if self._own.connected:
            return []
        return [f"The supervisor can't be reached since {timestamp(self._own.since)}: no model can be loaded."]

    def _node_reasons(self) -> list[str]:
        away = [link for link in self._nodes if not link.connected and link is not self._own]
        return [
            f"Node '{link.node}' can't be reached since {timestamp(link.since)}; if it is gone for good, forget it: "
            f"DELETE /api/v1/nodes/{link.node}."
            for link in away
        ]


def health_of(model: Model) -> str:
    """One word for every model, so that the counts add up: where nothing serves, the newest version says why."""
    if model.promoted is not None:
        return model.promoted.health
    newest = next(iter(model.versions.values()), None)
    return Health.UNHEALTHY if newest and newest.health is Health.UNHEALTHY else NOT_PROMOTED


def _counts(values: list[str]) -> dict[str, int]:
    return {str(word): values.count(word) for word in (*Health, NOT_PROMOTED) if word in values}
