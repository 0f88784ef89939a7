"""Copies of requests for the variant of an A/B test that is not to answer yet: what it makes of them is measured, and
dropped.

A copy never holds up its request, goes after all others in its model's queue, and is left out when too many run already
or its model's limits are spent. It is nobody's use, and no key is charged for it.
"""

import asyncio

import msgspec
import structlog

from inference.gateway.admission import Admission
from inference.gateway.admitted import Applicant
from inference.gateway.dispatch import Dispatcher
from inference.gateway.route_counting import RouteCounting, RoutedRequest
from inference.gateway.workers import WorkerLost
from registry.errors import ApiError
from routing.targets import Target

log = structlog.get_logger(module="request_router")

MOST = 16
"""Copies that run at once, in this process."""


class Mirror:
    """Owned by the event loop."""

    def __init__(self, admission: Admission, dispatcher: Dispatcher, counting: RouteCounting) -> None:
        self._admission = admission
        self._dispatcher = dispatcher
        self._counting = counting
        self._running: set[asyncio.Task[None]] = set()

    def copy(self, applicant: Applicant) -> None:
        """If the request is one of those that are copied."""
        decision = applicant.decision
        if not decision.copied or decision.test is None or decision.test.b is None or len(self._running) >= MOST:
            return
        task = asyncio.get_running_loop().create_task(self._run(applicant, decision.test.b))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def close(self) -> None:
        for task in self._running:
            task.cancel()

    async def _run(self, applicant: Applicant, target: Target) -> None:
        decision = msgspec.structs.replace(applicant.decision, version=target.version, variant="B", copied=False)
        request = msgspec.structs.replace(applicant.request, stream=False, priority=0)
        copied = msgspec.structs.replace(
            applicant,
            request=request,
            decision=decision,
            caller=None,
            request_id=f"{applicant.request_id}-copy",
            trace=None,
            copy=True,
        )
        try:
            admitted = await self._admission.admit(copied)
            with admitted, RoutedRequest(self._counting, decision, admitted) as routed:
                routed.answer = await self._dispatcher.dispatch(admitted, alone=True)
        except (ApiError, WorkerLost) as fault:
            log.debug("A copy came to nothing", model_id=target.version.model, reason=str(fault), **copied.ids)
