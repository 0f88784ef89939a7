"""What is done to a model's requests near its limits, as its policy says: refused in an emergency, handed to a sibling,
capped, paced, queued. Most requests never come here; see :meth:`inference.gateway.admission.Admission.admit`."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from typing import Protocol

import msgspec

from inference.gateway.admitted import Applicant
from inference.gateway.estimates import first_grants
from inference.gateway.parse import InferenceRequest
from inference.gateway.promises import Promises
from inference.gateway.standings import Standing
from inference.gateway.turnstile import Place, Turnstile
from quotas.ledger import IDLE_SECONDS, Balance, Shortage, Unit
from quotas.limits import AtHardLimit, ModelLimits
from quotas.modes import Mode
from registry.errors import QuotaExceeded, Unavailable
from routing.decision import Decision

RETRY_SECONDS = 0.25
"""Who waits at a hard limit looks so often whether others have given back."""

RETURN_SECONDS = IDLE_SECONDS + 2.0
"""Within it, what other gateways have leased and don't need is given back, and this one has read what they promised."""


class Reroute(Protocol):
    """Who else can do what an applicant asks, and may be used by it."""

    def to_model(self, applicant: Applicant, model: str) -> Decision | None:
        """The decision for that model."""

    def to_next(self, applicant: Applicant, tried: Collection[int]) -> Decision | None:
        """That for the next candidate of its route; ``tried`` are versions, by their primary keys."""


class NothingLeft(QuotaExceeded):
    """Of a limit of the model's own."""

    @classmethod
    def like(cls, exceeded: QuotaExceeded) -> "NothingLeft":
        return cls(exceeded.message, param=exceeded.param, code=exceeded.code, retry_after=exceeded.retry_after)


class Degradation:
    """Owned by the event loop."""

    def __init__(self, promises: Promises, reroute: Reroute, pressure: Callable[[], str]) -> None:
        """
        Args:
            pressure: why the node is about to run out of memory; empty: it is not.
        """
        self._promises = promises
        self._reroute = reroute
        self._pressure = pressure
        self._turnstiles: dict[str, Turnstile] = {}
        self.declared = ""
        """Why an operator declared an emergency; empty: nobody did."""

    @property
    def emergency(self) -> str:
        """Why there is one; empty: there is none."""
        return self.declared or self._pressure()

    def standing(self, model: str) -> Standing:
        return self._promises.standings.of(model, time.time())

    def retune(self) -> None:
        self._turnstiles = {model: each for model, each in self._turnstiles.items() if not each.idle}

    def refuse_in_emergency(self, applicant: Applicant, limits: ModelLimits) -> None:
        """Raises Unavailable where there is one and the request is not urgent enough."""
        least = limits.policy.emergency_priority
        if (why := self.emergency) and (priority := applicant.request.priority) < least:
            caller = applicant.caller
            capped = caller is not None and caller.max_priority < least
            theirs = f"this one's is {priority}" + (", the most that its API key may have" if capped else "")
            raise Unavailable(
                f"Only requests with a priority of {least} and above are served now, and {theirs}: {why}. Try again "
                "later.",
                code="emergency",
                retry_after=30,
            )

    def sibling(self, applicant: Applicant, limits: ModelLimits) -> Applicant | None:
        """The same request to its model's sibling, if that can take it. One step only: siblings may go in a circle. Who
        pins a version wants no other one."""
        name = limits.policy.sibling
        if name is None or applicant.decision.pinned or not limits.throttling_enabled or self.standing(name).slowed:
            return None
        decision = self._reroute.to_model(applicant, name)
        return None if decision is None else msgspec.structs.replace(applicant, decision=decision)

    def elsewhere(self, applicant: Applicant, limits: ModelLimits) -> Iterator[tuple[Applicant, tuple[str, ...]]]:
        """The same request to others, where its model has nothing left: the sibling, then the route's other candidates,
        as long as they have any. Each with how that is told the client."""
        tried = {applicant.decision.version.pk}
        if (sibling := self.sibling(applicant, limits)) is not None:
            tried.add(sibling.decision.version.pk)
            yield sibling, ("sibling",)
        if applicant.decision.named:
            return
        while (decision := self._reroute.to_next(applicant, tried)) is not None:
            tried.add(decision.version.pk)
            if self.standing(decision.version.model).mode is not Mode.HARD_LIMIT:
                yield msgspec.structs.replace(applicant, decision=decision), ()

    def capped(self, applicant: Applicant, limits: ModelLimits) -> Applicant | None:
        """With a shorter answer, if its model is throttled and it asks for a longer one."""
        cap = limits.policy.max_tokens_cap
        if cap is None or self.standing(applicant.model).mode is not Mode.THROTTLED or _shorter(applicant.request, cap):
            return None
        request = msgspec.structs.replace(applicant.request, max_tokens=cap)
        return msgspec.structs.replace(applicant, request=request)

    async def keep_pace(self, applicant: Applicant, limits: ModelLimits) -> bool:
        """Wait for it, if the model has one. Whether that took time.

        Raises:
            QuotaExceeded: too many wait, or it would last too long.
        """
        paces = self.standing(applicant.model).paces
        if not paces or not limits.policy.pace:
            return False
        tokens = sum(first_grants(applicant.request, limits.burst))
        turnstile = self._turnstile(applicant.model)
        waited = await turnstile.enter(place_of(applicant, limits), paces)
        turnstile.passed(paces, tokens)
        turnstile.leave(paces)
        return waited

    def hasten(self, model: str, unused: int) -> None:
        """Who waits for a pace waits less when others give back."""
        if self._turnstiles and (turnstile := self._turnstiles.get(model)) is not None:
            turnstile.unused(self.standing(model).paces, unused)

    async def wait_for_more(
        self, applicant: Applicant, limits: ModelLimits, shortage: Shortage, is_there: Callable[[], Awaitable[bool]]
    ) -> None:
        """Until there is as much as it needs, in fair order, if the policy says so, and as long as some may come.

        Raises:
            NothingLeft: of the model's limit; others may have some.
            QuotaExceeded: it is the caller's own, or more than the limit ever has.
        """
        exceeded = self._promises.exceeded(shortage)
        account = shortage.balance.account
        if shortage.amount > account.limit or account not in limits.accounts:
            raise exceeded
        if limits.policy.at_hard_limit is AtHardLimit.REJECT or any(self.elsewhere(applicant, limits)):
            raise NothingLeft.like(exceeded)
        place = place_of(applicant, limits)
        turnstile = self._turnstile(applicant.model)
        began = time.monotonic()
        await turnstile.enter(place)
        try:
            while (waited := time.monotonic() - began) < place.seconds:
                if await is_there():
                    return
                if waited > RETURN_SECONDS and not self._may_come(shortage.balance, place.seconds - waited):
                    break
                await asyncio.sleep(RETRY_SECONDS)
        finally:
            turnstile.leave()
        raise exceeded

    def _may_come(self, balance: Balance, seconds: float) -> bool:
        """Whether more of it can be there within that time: a new window, or what running requests do not use."""
        if balance.window.ends_at <= time.time() + seconds:
            return True
        reading = self._promises.standings.readings.get(balance.account.key)
        promised = balance.reserved + (reading.reserved if reading is not None else 0)
        return balance.account.unit is Unit.TOKENS and promised > 0

    def _turnstile(self, model: str) -> Turnstile:
        turnstile = self._turnstiles.get(model)
        if turnstile is None:
            turnstile = self._turnstiles[model] = Turnstile(model)
        return turnstile


def place_of(applicant: Applicant, limits: ModelLimits) -> Place:
    """Where it waits."""
    return Place(
        tenant=applicant.origin.tenant,
        weight=applicant.origin.weight,
        priority=applicant.request.priority,
        seconds=limits.policy.queue_seconds,
        length=limits.policy.queue_length,
    )


def _shorter(request: InferenceRequest, cap: int) -> bool:
    return bool(request.inputs) or (request.max_tokens is not None and request.max_tokens <= cap)
