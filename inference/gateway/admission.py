"""Whether a request may be served, by whom, and how much it may use: one way for all endpoints.

What limits it is prepared when the configuration changes (:mod:`inference.gateway.terms`), and how its model stands
with its soft limits when that changes. So nearly every request is admitted at once, from memory; see
:meth:`Admission.admit` and :mod:`inference.gateway.degradation` for what becomes of the others, and
:mod:`inference.gateway.promises` for what asks SQL.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from zoneinfo import ZoneInfo

import structlog

from inference.gateway.admitted import Admitted, Applicant, Promise, Used
from inference.gateway.asgi import HeaderList
from inference.gateway.degradation import Degradation, NothingLeft, place_of
from inference.gateway.estimates import first_grants
from inference.gateway.permits import Held, Permits
from inference.gateway.promises import QUOTA_EXCEEDED, Promises
from inference.gateway.terms import Terms, TermsBook
from inference.gateway.usage import UsageBook
from inference.protocol import GatewayCounts
from inference.stopwatch import Stopwatch
from quotas.callers import Caller
from quotas.ledger import Reservation, Shortage
from quotas.limits import ModelLimits
from quotas.modes import Level, Mode
from quotas.usage.counts import UsageCounts
from quotas.windows import Period, Window, window_at
from registry.errors import QuotaExceeded

log = structlog.get_logger(module="quotas")


class Admission:
    """Owned by the event loop."""

    def __init__(
        self,
        promises: Promises,
        permits: Permits,
        usage: UsageBook,
        zone: ZoneInfo,
        degradation: Degradation,
        *,
        profile: bool = False,
    ) -> None:
        """``profile``: whether it is measured how long this takes."""
        self._promises = promises
        self._permits = permits
        self._usage = usage
        self._zone = zone
        self._degradation = degradation
        self._terms = TermsBook()
        self._hour = Window(0, 0)
        self._profile = profile
        self._reserving = Stopwatch()
        self._settling = Stopwatch()
        self._counted = GatewayCounts()
        self.tasks: set[asyncio.Task[None]] = set()

    def retune(self, limits: Mapping[str, ModelLimits]) -> None:
        """These are all limits of models that there are now; those of callers come with them."""
        self._terms.retune(limits)
        self._degradation.retune()

    async def admit(self, applicant: Applicant) -> Admitted:
        """The request may be served, once this has returned: at once, if none of these holds.

        (1) in an emergency, and not urgent enough     → refused
        (2) throttled, or nothing left, and its model
            has a sibling that is neither              → the sibling is to answer
        (3) throttled                                  → it waits for its pace; its answer is capped
        (4) too many run at once                       → it waits for one to end
        (5) nothing left                               → the sibling, or the route's next candidate that has any; else
                                                         it waits, or is refused: the policy says

        Raises:
            QuotaExceeded: which limit, and when to try again.
            Unavailable: there is an emergency; or the lease is spent and PostgreSQL can't be asked for more.
        """
        with self._timed(self._reserving):
            promise = self._at_once(applicant)
        if promise is not None:
            return Admitted(self, applicant, promise)
        began = time.monotonic()
        admitted = await self._admit_with_care(applicant)
        admitted.waited = admitted.began - began
        return admitted

    def headers(self, model: str, caller: Caller | None, asked: str) -> HeaderList:
        """How a caller stands with the limits of the model that answers, if any does, and their own; and how the model
        that was ``asked`` does, of which the other may be a sibling."""
        now = time.time()
        headers = self._promises.headers(self._terms.of(model, caller).allowance, now)
        mode = Mode.EMERGENCY if self._degradation.emergency else self._promises.standings.of(asked, now).mode
        if mode is not Mode.NORMAL:
            headers.append((b"x-nopenai-quota-mode", mode.value.encode()))
        return headers

    def refused(self, applicant: Applicant, why: QuotaExceeded) -> None:
        """It was, for a limit's sake. (That a minute's limit or too many at once did it is the client's own affair.)"""
        if why.code == QUOTA_EXCEEDED:
            log.error(
                "Quota exceeded",
                model_id=applicant.model,
                tenant=applicant.origin.tenant,
                reason=why.message,
                **applicant.ids,
            )
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
            # What it waits for is not promised yet then: a place among those that run must be had first.
            limits, there = self._terms.limits(applicant.model), partial(self._is_there, applicant)
            await self._degradation.wait_for_more(applicant, limits, promised, there)

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
        if promise.reservation is not None:
            self._degradation.hasten(applicant.model, promise.reservation.tokens - used.tokens)
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
        if self._degradation.emergency:
            return None
        terms = self._terms.of(applicant.model, applicant.caller)
        if terms.free and not terms.permits:
            return Promise(terms, None, None, None)
        if self._degradation.standing(applicant.model).level >= Level.THROTTLE:
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

    async def _admit_with_care(self, applicant: Applicant) -> Admitted:
        """See :meth:`admit`."""
        degradation, limits = self._degradation, self._terms.limits(applicant.model)
        degradation.refuse_in_emergency(applicant, limits)  # (1)
        slowed = degradation.standing(applicant.model).slowed
        if slowed and (sibling := degradation.sibling(applicant, limits)) is not None:
            return await self._serve(sibling, "sibling")  # (2)
        try:
            return await self._serve(applicant)
        except NothingLeft:
            for other, ways in degradation.elsewhere(applicant, limits):  # (5)
                with contextlib.suppress(NothingLeft):
                    return await self._serve(other, *ways)
            raise

    async def _serve(self, applicant: Applicant, *ways: str) -> Admitted:
        limits = self._terms.limits(applicant.model)
        if (capped := self._degradation.capped(applicant, limits)) is not None:
            applicant, ways = capped, (*ways, "capped")
        try:
            if await self._degradation.keep_pace(applicant, limits):
                ways = (*ways, "paced")  # (3)
            return Admitted(self, applicant, await self.promise(applicant), ways)  # (4), (5)
        except QuotaExceeded as exceeded:
            if capped is not None:
                exceeded.message += f" (Its answer was capped at {capped.request.max_tokens} tokens already.)"
            raise

    async def _permit(self, applicant: Applicant, terms: Terms) -> Held | None:
        if not terms.permits:
            return None
        place = place_of(applicant, terms.limits)
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

    async def _is_there(self, applicant: Applicant) -> bool:
        """As much as it needs."""
        burst = self._terms.limits(applicant.model).burst
        promised = await self._reserve(applicant, sum(first_grants(applicant.request, burst)))
        if isinstance(promised, Shortage):
            return False
        self._promises.settle(promised, None)
        return True

    def _settle(self, promise: Promise, tokens: int | None) -> None:
        if promise.held is not None:
            promise.held.release()
        if promise.reservation is not None:
            self._promises.settle(promise.reservation, tokens)

    def _count(self, applicant: Applicant, hour: int, counts: UsageCounts) -> None:
        if applicant.copy:
            return
        key_pk = None if applicant.caller is None else applicant.caller.key_pk
        self._usage.add(hour, key_pk, applicant.origin.tenant, applicant.model, counts)

    def _timed(self, stopwatch: Stopwatch) -> AbstractContextManager[None]:
        return stopwatch.measure() if self._profile else _UNTIMED


_UNTIMED = nullcontext()
