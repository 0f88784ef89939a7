"""Whether a request may be served, by whom, and how much it may use: one way for all endpoints.

What limits it is prepared when the configuration changes: the windows of its model, its key and its key's tenant, what
of them may run at once, and how its model stands with its soft limits. A request is then admitted from memory; see
:meth:`Admission.admit` for the steps, and :mod:`inference.gateway.promises` for the exceptions.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from types import TracebackType
from zoneinfo import ZoneInfo

import msgspec

from inference.gateway.asgi import ClientGone, HeaderList
from inference.gateway.estimates import first_grants
from inference.gateway.meters import RequestMeter, Used
from inference.gateway.origin import Origin
from inference.gateway.parse import InferenceRequest
from inference.gateway.permits import Held, Permits
from inference.gateway.promises import Promises
from inference.gateway.standings import Standing
from inference.gateway.turnstile import Place, Turnstile
from inference.gateway.usage import UsageBook
from inference.protocol import GatewayCounts
from inference.stopwatch import Stopwatch
from quotas.callers import Caller
from quotas.ledger import Allowance, Reservation, Shortage
from quotas.limits import NO_LIMITS, AtHardLimit, ModelLimits
from quotas.modes import Mode
from quotas.usage.counts import UsageCounts, UsageKey
from quotas.windows import Period, Window, window_at
from registry.catalogue import Version
from registry.errors import QuotaExceeded, Unavailable
from routing.decision import Decision

RETRY_SECONDS = 0.25
"""Who waits at a hard limit looks so often whether others have given back."""

_SLOWED = (Mode.THROTTLED, Mode.HARD_LIMIT)


class Applicant(msgspec.Struct, frozen=True, kw_only=True):
    """A request that asks to be served."""

    request: InferenceRequest
    decision: Decision
    caller: Caller | None
    origin: Origin

    @property
    def model(self) -> str:
        return self.decision.version.model


Reroute = Callable[[Applicant, str], Decision | None]


class NothingLeft(QuotaExceeded):
    """Of a limit of the model's own."""

    @classmethod
    def like(cls, exceeded: QuotaExceeded) -> "NothingLeft":
        return cls(exceeded.message, param=exceeded.param, code=exceeded.code, retry_after=exceeded.retry_after)


class Promise(msgspec.Struct, frozen=True):
    """What an admitted request has."""

    held: Held | None
    """Its place among those that run at once."""
    reservation: Reservation | None
    grants: list[int]
    """To each of its prompts, if anything is limited."""
    burst: int | None


class Admission:
    """Owned by the event loop."""

    def __init__(
        self,
        promises: Promises,
        permits: Permits,
        usage: UsageBook,
        zone: ZoneInfo,
        reroute: "Reroute",
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
        self._profile = profile
        self._reserving = Stopwatch()
        self._settling = Stopwatch()
        self._counted = GatewayCounts()
        self._pressure = pressure
        self._reroute = reroute
        self._promises = promises
        self._permits = permits
        self._usage = usage
        self._zone = zone
        self._limits: Mapping[str, ModelLimits] = {}
        self._allowances: dict[tuple[str, int], Allowance] = {}
        self._turnstiles: dict[str, Turnstile] = {}
        self._hour = Window(0, 0)
        self.declared = ""
        """Why an operator declared an emergency; empty: nobody did."""
        self.tasks: set[asyncio.Task[None]] = set()
        """Of requests that wait for a grant."""

    def retune(self, limits: Mapping[str, ModelLimits]) -> None:
        """These are all limits of models that there are now; those of callers come with them."""
        self._limits = limits
        self._allowances.clear()
        self._turnstiles = {model: each for model, each in self._turnstiles.items() if not each.idle}

    async def admit(self, applicant: Applicant) -> "Admitted":
        """The request may be served, once this has returned.

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
        limits = self._limits.get(applicant.model, NO_LIMITS)
        if self.emergency and applicant.request.priority < limits.policy.emergency_priority:
            raise self._emergency(limits)  # (1)
        if self.standing(applicant.model).mode in _SLOWED and (sibling := self._sibling(applicant, limits)) is not None:
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
        headers = self._promises.headers(self._allowance(model, caller))
        mode = Mode.EMERGENCY if self.emergency else self.standing(model).mode
        if mode is not Mode.NORMAL:
            headers.append((b"x-nopenai-quota-mode", mode.value.encode()))
        return headers

    def refused(self, applicant: Applicant) -> None:
        """It was, for a limit's sake."""
        self._count(applicant, self.hour(), UsageCounts(refused=1))

    async def promise(self, applicant: Applicant) -> "Promise":
        """A place among those that run, and tokens: both, after a wait if need be, or neither."""
        limits = self._limits.get(applicant.model, NO_LIMITS)
        grants = first_grants(applicant.request, limits.burst)
        while True:
            held = await self._permit(applicant, limits)
            try:
                promised = await self._reserve(applicant, sum(grants))
            except BaseException:
                if held is not None:
                    held.release()
                raise
            if not isinstance(promised, Shortage):
                return Promise(held, promised, grants, limits.burst)
            if held is not None:
                held.release()
            await self._nothing_left(applicant, promised, sum(grants))
            limits = self._limits.get(applicant.model, NO_LIMITS)

    def settle(self, promise: "Promise", tokens: int | None) -> None:
        """It used so many; None: nothing was served for it."""
        with self._settling.measure() if self._profile else nullcontext():
            self._settle(promise, tokens)

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

    def _settle(self, promise: "Promise", tokens: int | None) -> None:
        if promise.held is not None:
            promise.held.release()
        if promise.reservation is not None:
            self._promises.settle(promise.reservation, tokens)

    async def _serve(self, applicant: Applicant, *ways: str) -> "Admitted":
        limits = self._limits.get(applicant.model, NO_LIMITS)
        standing = self.standing(applicant.model)
        cap = limits.policy.max_tokens_cap
        if standing.mode is Mode.THROTTLED and cap is not None and not _shorter(applicant.request, cap):
            request = msgspec.structs.replace(applicant.request, max_tokens=cap)
            applicant = msgspec.structs.replace(applicant, request=request)
            ways += ("capped",)
        if standing.paces and limits.policy.pace and await self._keep_pace(applicant, limits, standing):
            ways += ("paced",)  # (3)
        with self._reserving.measure() if self._profile else nullcontext():
            promise = await self.promise(applicant)  # (4), (5)
        return Admitted(self, applicant, promise, ways)

    async def _keep_pace(self, applicant: Applicant, limits: ModelLimits, standing: Standing) -> bool:
        """Whether it had to wait for it."""
        turnstile = self._turnstile(applicant.model)
        waited = await turnstile.enter(_place(applicant, limits), standing.paces)
        turnstile.passed(standing.paces, sum(first_grants(applicant.request, limits.burst)))
        turnstile.leave(standing.paces)
        return waited

    async def _permit(self, applicant: Applicant, limits: ModelLimits) -> Held | None:
        wanted = applicant.caller.permits if applicant.caller is not None else ()
        if limits.permit is not None:
            wanted = (limits.permit, *wanted)
        if not wanted:
            return None
        place = _place(applicant, limits)
        return await self._permits.acquire(
            wanted,
            tenant=place.tenant,
            weight=place.weight,
            priority=place.priority,
            patience_seconds=place.seconds,
            most_waiting=place.length,
        )

    async def _reserve(self, applicant: Applicant, tokens: int) -> Reservation | Shortage | None:
        model, caller = applicant.model, applicant.caller
        limits = self._limits.get(model, NO_LIMITS)
        if limits.burst is None and not self._allowance(model, caller).accounts:
            return None
        owing = limits.open_without_database
        return await self._promises.reserve(lambda: self._allowance(model, caller), tokens, owing=owing)

    async def _nothing_left(self, applicant: Applicant, shortage: Shortage, tokens: int) -> None:
        """Wait until so much could be promised, in fair order, if the policy says so. (It is not promised here: a place
        among those that run must be had first.)

        Raises:
            NothingLeft: of the model's limit; its sibling may have some.
            QuotaExceeded: it is the caller's own, or more than the limit ever has.
        """
        limits = self._limits.get(applicant.model, NO_LIMITS)
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
                promised = await self._reserve(applicant, tokens)
                if not isinstance(promised, Shortage):
                    if promised is not None:
                        self._promises.settle(promised, None)
                    return
                await asyncio.sleep(RETRY_SECONDS)
        finally:
            turnstile.leave()
        raise exceeded

    def _sibling(self, applicant: Applicant, limits: ModelLimits) -> Applicant | None:
        """The same request to its model's sibling, if that can take it. One step only: siblings may go in a circle."""
        name = limits.policy.sibling
        if name is None or not limits.throttling_enabled or self.standing(name).mode in _SLOWED:
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

    def over(self, admitted: "Admitted", promise: "Promise", used: Used) -> None:
        """What it used is charged and counted; what it did not use can be promised to others."""
        applicant, meter = admitted.applicant, admitted.meter
        self.settle(promise, used.tokens or None)
        if promise.reservation is not None and (turnstile := self._turnstiles.get(applicant.model)) is not None:
            turnstile.unused(self.standing(applicant.model).paces, promise.reservation.tokens - used.tokens)
        counts = UsageCounts(
            requests=1,
            prompt_tokens=used.prompt_tokens,
            cached_tokens=used.cached_tokens,
            completion_tokens=used.completion_tokens,
            seconds=time.monotonic() - meter.began,
            errors=int(meter.failed),
        )
        self._count(applicant, admitted.hour, counts)

    def meter(self, promise: "Promise", request: InferenceRequest, over: Callable[[Used], None]) -> RequestMeter:
        return RequestMeter(
            self._promises,
            promise.reservation,
            promise.grants if promise.reservation is not None else [None] * len(promise.grants),
            burst=promise.burst,
            choices=request.n,
            over=over,
            tasks=self.tasks,
        )

    def hour(self) -> int:
        """When the hour of now began, in seconds since the epoch."""
        now = time.time()
        if not self._hour.holds(now):
            self._hour = window_at(Period.HOUR, now, self._zone)
        return self._hour.starts_at

    def _count(self, applicant: Applicant, hour: int, counts: UsageCounts) -> None:
        caller = applicant.caller
        key = UsageKey(
            hour=hour,
            key_pk=None if caller is None else caller.key_pk,
            tenant=applicant.origin.tenant,
            model=applicant.model,
        )
        self._usage.add(key, counts)

    def _allowance(self, model: str, caller: Caller | None) -> Allowance:
        who = model, 0 if caller is None else caller.key_pk
        allowance = self._allowances.get(who)
        if allowance is None:
            own = caller.accounts if caller is not None else ()
            allowance = self._allowances[who] = Allowance((*self._limits.get(model, NO_LIMITS).accounts, *own))
        return allowance

    def _turnstile(self, model: str) -> Turnstile:
        turnstile = self._turnstiles.get(model)
        if turnstile is None:
            turnstile = self._turnstiles[model] = Turnstile(model)
        return turnstile


class Admitted:
    """A request that is being served, while it is entered."""

    __slots__ = ("_admission", "_promise", "applicant", "hour", "meter", "ways")

    def __init__(self, admission: Admission, applicant: Applicant, promise: Promise, ways: tuple[str, ...]) -> None:
        self._admission = admission
        self.applicant = applicant
        self._promise = promise
        self.hour = admission.hour()
        self.ways = ways
        """How it was treated for a limit's sake: ``paced``, ``capped``, ``sibling``."""
        self.meter = admission.meter(promise, applicant.request, self._over)

    @property
    def request(self) -> InferenceRequest:
        return self.applicant.request

    @property
    def decision(self) -> Decision:
        return self.applicant.decision

    async def serve_by(self, version: Version) -> None:
        """Another of its candidates is to answer. If that is of another model, its limits are charged, and only they.

        Raises as :meth:`Admission.promise`.
        """
        if version.model != self.applicant.model:
            index = self.decision.candidates.index(version)
            self._admission.settle(self._promise, None)
            self._promise = NO_PROMISE
            decision = msgspec.structs.replace(self.decision, index=index)
            self.applicant = msgspec.structs.replace(self.applicant, decision=decision)
            self._promise = await self._admission.promise(self.applicant)
            self.meter = self._admission.meter(self._promise, self.request, self._over)

    def __enter__(self) -> "Admitted":
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        """Nobody waits for its answer any more."""
        if isinstance(fault, Exception) and not isinstance(fault, ClientGone):
            self.meter.fail(fault)
        self.meter.close()

    def _over(self, used: Used) -> None:
        self._admission.over(self, self._promise, used)


NO_PROMISE = Promise(None, None, [], None)


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
