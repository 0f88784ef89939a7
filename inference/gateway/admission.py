"""Whether a request may be served, by whom, and how much it may use: one way for all endpoints.

What limits it is prepared when the configuration changes (:mod:`inference.gateway.terms`), and how its model stands
with its soft limits when that changes. So nearly every request is admitted at once, from memory; see
:meth:`Admission.admit` for what becomes of the others, and :mod:`inference.gateway.promises` for what asks SQL.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from zoneinfo import ZoneInfo

import msgspec

from inference.gateway.admitted import Admitted, Applicant, Promise, Used
from inference.gateway.asgi import HeaderList
from inference.gateway.estimates import first_grants
from inference.gateway.parse import InferenceRequest
from inference.gateway.permits import Held, Permits
from inference.gateway.promises import Promises
from inference.gateway.standings import Standing
from inference.gateway.terms import Terms, TermsBook
from inference.gateway.turnstile import Place, Turnstile
from inference.gateway.usage import UsageBook
from inference.protocol import GatewayCounts
from inference.stopwatch import Stopwatch
from quotas.callers import Caller
from quotas.ledger import Reservation, Shortage
from quotas.limits import AtHardLimit, ModelLimits
from quotas.modes import Level, Mode
from quotas.usage.counts import UsageCounts
from quotas.windows import Period, Window, window_at
from registry.errors import QuotaExceeded, Unavailable
from routing.decision import Decision

RETRY_SECONDS = 0.25
"""Who waits at a hard limit looks so often whether others have given back."""

Reroute = Callable[[Applicant, str], Decision | None]


class NothingLeft(QuotaExceeded):
    """Of a limit of the model's own."""

    @classmethod
    def like(cls, exceeded: QuotaExceeded) -> "NothingLeft":
        return cls(exceeded.message, param=exceeded.param, code=exceeded.code, retry_after=exceeded.retry_after)


class Admission:
    """Owned by the event loop."""

    def __init__(
        self,
        promises: Promises,
        permits: Permits,
        usage: UsageBook,
        zone: ZoneInfo,
        reroute: Reroute,
        pressure: Callable[[], str] = str,
        *,
        profile: bool = False,
    ) -> None:
        """
        Args:
            reroute: the decision for another model, if that can do what an applicant asks, who may use it.
            pressure: why the node is about to run out of memory; empty: it is not.
            profile: whether it is measured how long this takes.
        """
        self._promises = promises
        self._permits = permits
        self._usage = usage
        self._zone = zone
        self._reroute = reroute
        self._pressure = pressure
        self._terms = TermsBook()
        self._turnstiles: dict[str, Turnstile] = {}
        self._hour = Window(0, 0)
        self._profile = profile
        self._reserving = Stopwatch()
        self._settling = Stopwatch()
        self._counted = GatewayCounts()
        self.declared = ""
        """Why an operator declared an emergency; empty: nobody did."""
        self.tasks: set[asyncio.Task[None]] = set()

    def retune(self, limits: Mapping[str, ModelLimits]) -> None:
        """These are all limits of models that there are now; those of callers come with them."""
        self._terms.retune(limits)
        self._turnstiles = {model: each for model, each in self._turnstiles.items() if not each.idle}

    async def admit(self, applicant: Applicant) -> Admitted:
        """The request may be served, once this has returned: at once, if none of these holds.

        (1) in an emergency, and not urgent enough     → refused
        (2) throttled, or nothing left, and its model
            has a sibling that is neither              → the sibling is to answer
        (3) throttled                                  → it waits for its pace; its answer is capped
        (4) too many run at once                       → it waits for one to end
        (5) nothing left                               → the sibling; else it waits, or is refused: the policy says

        Raises:
            QuotaExceeded: which limit, and when to try again.
            Unavailable: there is an emergency; or the lease is spent and PostgreSQL can't be asked for more.
        """
        with self._timed(self._reserving):
            promise = self._at_once(applicant)
        if promise is not None:
            return Admitted(self, applicant, promise)
        limits = self._terms.limits(applicant.model)
        if self.emergency and applicant.request.priority < limits.policy.emergency_priority:
            raise self._emergency(limits)  # (1)
        if self.standing(applicant.model).slowed and (sibling := self._sibling(applicant, limits)) is not None:
            return await self._serve(sibling, "sibling")  # (2)
        try:
            return await self._serve(applicant)
        except NothingLeft:
            if (sibling := self._sibling(applicant, limits)) is None:
                raise
            return await self._serve(sibling, "sibling")  # (5)

    @property
    def emergency(self) -> str:
        """Why there is one; empty: there is none."""
        return self.declared or self._pressure()

    def standing(self, model: str) -> Standing:
        return self._promises.standings.of(model, time.time())

    def headers(self, model: str, caller: Caller | None) -> HeaderList:
        """How a caller stands with a model's limits and their own, whatever becomes of the request."""
        now = time.time()
        headers = self._promises.headers(self._terms.of(model, caller).allowance, now)
        mode = Mode.EMERGENCY if self.emergency else self._promises.standings.of(model, now).mode
        if mode is not Mode.NORMAL:
            headers.append((b"x-nopenai-quota-mode", mode.value.encode()))
        return headers

    def refused(self, applicant: Applicant) -> None:
        """It was, for a limit's sake."""
        self._count(applicant, self.hour(), UsageCounts(refused=1))

    def take_counts(self) -> GatewayCounts:
        """Since they were taken last."""
        before = self._counted
        self._counted = GatewayCounts(lease_refills=self._promises.refills, permit_requests=self._permits.round_trips)
        return GatewayCounts(
            lease_refills=self._counted.lease_refills - before.lease_refills,
            permit_requests=self._counted.permit_requests - before.permit_requests,
            reserve_timing=self._reserving.take(),
            settle_timing=self._settling.take(),
        )

    # What admitted requests need: see inference.gateway.admitted.Desk.

    def hour(self) -> int:
        """When the hour of now began, in seconds since the epoch."""
        now = time.time()
        if not self._hour.starts_at <= now < self._hour.ends_at:
            self._hour = window_at(Period.HOUR, now, self._zone)
        return self._hour.starts_at

    async def promise(self, applicant: Applicant) -> Promise:
        """A place among those that run, and tokens: both, after a wait if need be, or neither."""
        while True:
            terms = self._terms.of(applicant.model, applicant.caller)
            held = await self._permit(applicant, terms)
            try:
                grants = None if terms.free else first_grants(applicant.request, terms.limits.burst)
                promised = None if grants is None else await self._reserve(applicant, sum(grants))
            except BaseException:
                if held is not None:
                    held.release()
                raise
            if not isinstance(promised, Shortage):
                return Promise(terms, held, promised, grants)
            if held is not None:
                held.release()
            await self._nothing_left(applicant, promised)

    async def extend(self, reservation: Reservation, tokens: int) -> bool:
        return await self._promises.extend(reservation, tokens)

    def refusal(self, reservation: Reservation, tokens: int) -> QuotaExceeded | None:
        return self._promises.refusal(reservation, tokens)

    def withdraw(self, promise: Promise) -> None:
        """Nothing was served for it."""
        self._settle(promise, None)

    def over(self, admitted: Admitted, promise: Promise, used: Used) -> None:
        """What it used is charged and counted; what it did not use can be promised to others."""
        applicant = admitted.applicant
        with self._timed(self._settling):
            self._settle(promise, used.tokens or None)  # of which nothing was begun, that costs nothing
        if self._turnstiles and promise.reservation is not None:
            self._hasten(applicant.model, promise.reservation.tokens - used.tokens)
        counts = UsageCounts(
            requests=1,
            prompt_tokens=used.prompt_tokens,
            cached_tokens=used.cached_tokens,
            completion_tokens=used.completion_tokens,
            seconds=time.monotonic() - admitted.began,
            errors=int(admitted.failed),
        )
        self._count(applicant, admitted.hour, counts)

    # Inside

    def _at_once(self, applicant: Applicant) -> Promise | None:
        """What nearly every request gets without waiting; None: this one needs a closer look."""
        if self.declared or self._pressure():
            return None
        terms = self._terms.of(applicant.model, applicant.caller)
        if terms.free and not terms.permits:
            return Promise(terms, None, None, None)
        if self.standing(applicant.model).level >= Level.THROTTLE:
            return None
        held = None
        if terms.permits:
            if not terms.pools:
                terms.pools = self._permits.pools(terms.permits)
            if (held := self._permits.acquire_idle(terms.pools)) is None:
                return None
        if terms.free:
            return Promise(terms, held, None, None)
        grants = first_grants(applicant.request, terms.limits.burst)
        reservation = self._promises.reserve_at_once(terms.allowance, sum(grants))
        if reservation is None:
            if held is not None:
                held.release()
            return None
        return Promise(terms, held, reservation, grants)

    async def _serve(self, applicant: Applicant, *ways: str) -> Admitted:
        limits = self._terms.limits(applicant.model)
        standing = self.standing(applicant.model)
        cap = limits.policy.max_tokens_cap
        if standing.mode is Mode.THROTTLED and cap is not None and not _shorter(applicant.request, cap):
            request = msgspec.structs.replace(applicant.request, max_tokens=cap)
            applicant = msgspec.structs.replace(applicant, request=request)
            ways += ("capped",)
        if standing.paces and limits.policy.pace and await self._keep_pace(applicant, limits, standing):
            ways += ("paced",)  # (3)
        return Admitted(self, applicant, await self.promise(applicant), ways)  # (4), (5)

    async def _keep_pace(self, applicant: Applicant, limits: ModelLimits, standing: Standing) -> bool:
        """Whether it had to wait for it."""
        tokens = sum(first_grants(applicant.request, limits.burst))
        turnstile = self._turnstile(applicant.model)
        waited = await turnstile.enter(_place(applicant, limits), standing.paces)
        turnstile.passed(standing.paces, tokens)
        turnstile.leave(standing.paces)
        return waited

    async def _permit(self, applicant: Applicant, terms: Terms) -> Held | None:
        if not terms.permits:
            return None
        place = _place(applicant, terms.limits)
        return await self._permits.acquire(
            terms.permits,
            tenant=place.tenant,
            weight=place.weight,
            priority=place.priority,
            patience_seconds=place.seconds,
            most_waiting=place.length,
        )

    async def _reserve(self, applicant: Applicant, tokens: int) -> Reservation | Shortage:
        model, caller = applicant.model, applicant.caller
        owing = self._terms.limits(model).open_without_database
        return await self._promises.reserve(lambda: self._terms.of(model, caller).allowance, tokens, owing=owing)

    async def _nothing_left(self, applicant: Applicant, shortage: Shortage) -> None:
        """Wait until so much could be promised, in fair order, if the policy says so. (It is not promised here: a place
        among those that run must be had first.)

        Raises:
            NothingLeft: of the model's limit; its sibling may have some.
            QuotaExceeded: it is the caller's own, or more than the limit ever has.
        """
        limits = self._terms.limits(applicant.model)
        exceeded = self._promises.exceeded(shortage)
        account = shortage.balance.account
        if shortage.amount > account.limit or account not in limits.accounts:
            raise exceeded
        if limits.policy.at_hard_limit is AtHardLimit.REJECT or self._sibling(applicant, limits) is not None:
            raise NothingLeft.like(exceeded)
        place = _place(applicant, limits)
        turnstile = self._turnstile(applicant.model)
        deadline = time.monotonic() + place.seconds
        await turnstile.enter(place)
        try:
            while time.monotonic() < deadline:
                promised = await self._reserve(applicant, sum(first_grants(applicant.request, limits.burst)))
                if not isinstance(promised, Shortage):
                    self._promises.settle(promised, None)
                    return
                await asyncio.sleep(RETRY_SECONDS)
        finally:
            turnstile.leave()
        raise exceeded

    def _sibling(self, applicant: Applicant, limits: ModelLimits) -> Applicant | None:
        """The same request to its model's sibling, if that can take it. One step only: siblings may go in a circle."""
        name = limits.policy.sibling
        if name is None or not limits.throttling_enabled or self.standing(name).slowed:
            return None
        decision = self._reroute(applicant, name)
        return None if decision is None else msgspec.structs.replace(applicant, decision=decision)

    def _emergency(self, limits: ModelLimits) -> Unavailable:
        return Unavailable(
            f"Only requests with a priority of {limits.policy.emergency_priority} and above are served now: "
            f"{self.emergency}. Try again later.",
            code="emergency",
            retry_after=30,
        )

    def _settle(self, promise: Promise, tokens: int | None) -> None:
        if promise.held is not None:
            promise.held.release()
        if promise.reservation is not None:
            self._promises.settle(promise.reservation, tokens)

    def _hasten(self, model: str, unused: int) -> None:
        """Who waits for a pace waits less when others give back."""
        if (turnstile := self._turnstiles.get(model)) is not None:
            turnstile.unused(self.standing(model).paces, unused)

    def _turnstile(self, model: str) -> Turnstile:
        turnstile = self._turnstiles.get(model)
        if turnstile is None:
            turnstile = self._turnstiles[model] = Turnstile(model)
        return turnstile

    def _count(self, applicant: Applicant, hour: int, counts: UsageCounts) -> None:
        key_pk = None if applicant.caller is None else applicant.caller.key_pk
        self._usage.add(hour, key_pk, applicant.origin.tenant, applicant.model, counts)

    def _timed(self, stopwatch: Stopwatch) -> AbstractContextManager[None]:
        return stopwatch.measure() if self._profile else _UNTIMED


_UNTIMED = nullcontext()


def _place(applicant: Applicant, limits: ModelLimits) -> Place:
    return Place(
        tenant=applicant.origin.tenant,
        weight=applicant.origin.weight,
        priority=applicant.request.priority,
        seconds=limits.policy.queue_seconds,
        length=limits.policy.queue_length,
    )


def _shorter(request: InferenceRequest, cap: int) -> bool:
    return bool(request.inputs) or (request.max_tokens is not None and request.max_tokens <= cap)
