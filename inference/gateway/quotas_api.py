"""``/metrics/quotas``: how all models stand with their limits, from memory. For operators, where keys are required."""

import time
from typing import Any

import msgspec

from inference.gateway.asgi import JSON
from inference.gateway.cache_api import PROFILING_OFF, detailed
from inference.gateway.call import Call
from inference.gateway.degradation import Degradation
from inference.gateway.promises import Promises
from inference.gateway.quota_report import LimitUse, counts_report, limit_uses, model_report, timings_report
from inference.gateway.state import GatewayState
from inference.gateway.supervisor_link import SupervisorLink
from quotas.limits import NO_LIMITS
from quotas.modes import Mode

_encode = msgspec.json.Encoder().encode


class QuotasApi:
    def __init__(
        self,
        state: GatewayState,
        degradation: Degradation,
        promises: Promises,
        supervisor: SupervisorLink,
        *,
        profile: bool,
    ) -> None:
        self._state = state
        self._degradation = degradation
        self._promises = promises
        self._supervisor = supervisor
        self._profile = profile

    async def metrics(self, call: Call) -> None:
        report = self._report()
        if detailed(call):
            report["profiling"] = timings_report(self._supervisor.sums.gateways) if self._profile else PROFILING_OFF
        await call.answer(200, [JSON], _encode(report))

    def uses(self) -> dict[str, list[LimitUse]]:
        """Of each model that is limited."""
        snapshot, now = self._state.current(), time.time()
        permits, readings = self._supervisor.sums.permits, self._promises.standings.readings
        return {model: list(limit_uses(limits, readings, permits, now)) for model, limits in snapshot.limits.items()}

    @property
    def emergency(self) -> bool:
        return bool(self._degradation.emergency)

    def modes(self) -> dict[str, Mode]:
        """Of each model that is limited."""
        if self._degradation.emergency:
            return dict.fromkeys(self._state.current().limits, Mode.EMERGENCY)
        return {model: self._degradation.standing(model).mode for model in self._state.current().limits}

    def _report(self) -> dict[str, Any]:
        snapshot, uses = self._state.current(), self.uses()
        emergency = self._degradation.emergency
        models = [model.id for model in snapshot.catalogue.models.values() if model.alias_of is None]
        per_model = {}
        for model in models:
            limits = snapshot.limits.get(model, NO_LIMITS)
            per_model[model] = model_report(uses.get(model, []), self._degradation.standing(model), limits)
            if emergency:
                per_model[model]["mode"] = Mode.EMERGENCY.value
        return {
            "emergency": {"active": bool(emergency), "reason": emergency},
            "limited_models": len(snapshot.limits),
            **counts_report(self._supervisor.sums.gateways),
            "per_model": per_model,
        }
