"""How requests are routed: ``/routing/stats``, ``/metrics/routing``, and ``/routing/explain`` of one that is not run.
For operators, where keys are required."""

from typing import Any

import msgspec

from inference.gateway import parse
from inference.gateway.asgi import JSON, read_body
from inference.gateway.asking import ask_of
from inference.gateway.cache_api import PROFILING_OFF, detailed
from inference.gateway.call import Call
from inference.gateway.origin import origin_of
from inference.gateway.routing_report import routing_report, timings_report
from inference.gateway.state import GatewayState
from inference.gateway.supervisor_link import SupervisorLink
from routing.experiments.split import shares_of_b, splits_in_force

_encode = msgspec.json.Encoder().encode

_EXAMPLE = [{"role": "user", "content": "Hello"}]
"""Stands in for the messages of a request that is about its model only."""


class RoutingApi:
    def __init__(self, state: GatewayState, supervisor: SupervisorLink, *, profile: bool) -> None:
        self._state = state
        self._supervisor = supervisor
        self._profile = profile

    async def stats(self, call: Call) -> None:
        await call.answer(200, [JSON], _encode(self._report()))

    async def metrics(self, call: Call) -> None:
        report = self._report()
        if detailed(call):
            report["sample"] = list(self._state.samples.newest_first())
            report["profiling"] = timings_report(self._supervisor.sums.routing) if self._profile else PROFILING_OFF
        await call.answer(200, [JSON], _encode(report))

    async def explain(self, call: Call) -> None:
        request = _parsed(await read_body(call.receive, call.headers))
        snapshot = self._state.current()
        origin = origin_of(request, call.caller, snapshot.cache_rights)
        ask = ask_of(call, request, call.caller, origin, self._state.router.table)
        await call.answer(200, [JSON], _encode(self._state.router.explain(ask)))

    def _report(self) -> dict[str, Any]:
        snapshot = self._state.current()
        rates: dict[str, float | None] = {
            model.id: None for model in snapshot.catalogue.models.values() if model.alias_of is None
        }
        for target in self._state.targets:
            if target.version.model in rates and target.hit_rate:
                rates[target.version.model] = target.hit_rate
        strategy = snapshot.routing.strategy.value
        shares = shares_of_b(snapshot.routing)
        splits = splits_in_force(snapshot.routing)
        return {"strategy": strategy, **routing_report(self._supervisor.sums.routing, rates, shares, splits)}


def _parsed(body: bytes) -> parse.InferenceRequest:
    """As the endpoint would that the request is for: embeddings have ``input``, completions a ``prompt``, chats
    ``messages``; one that has none of them is a chat about nothing.

    Raises InvalidRequest.
    """
    fields = parse.json_object(body or b"{}")
    if "input" in fields:
        return parse.embedding(body)
    if "prompt" in fields:
        return parse.completion(body)
    return parse.chat(body if "messages" in fields else _encode({"messages": _EXAMPLE, **fields}))
