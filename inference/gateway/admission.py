"""Whether a request may be served, and how many tokens it may use: one way for all endpoints.

What is promised is in this process's ledger (:mod:`quotas.ledger`), so an admitted request waits for nobody, except for
the one in some hundreds that finds its lease spent. It is promised an estimate of its prompt, and all of
``max_tokens`` or, without it, a step at a time; its worker counts exactly, never goes beyond what it was granted, and
asks for more. When it is over it is charged what it really used, and the rest can be promised to others.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Protocol
from zoneinfo import ZoneInfo

import structlog

from inference.gateway.asgi import HeaderList
from inference.gateway.leases import Upkeep
from inference.gateway.parse import InferenceRequest
from inference.gateway.workers import Meter, WorkerConnection
from inference.protocol import Accepted, Delta, Embedded, Failed, Finished, FinishReason, Grant, Wants
from quotas.journal import JournalFull
from quotas.ledger import Account, Ask, Balance, Ledger, Permit, Shortage, Unit
from quotas.limits import ModelLimits
from quotas.treasury import Holding, Leased
from registry.errors import QuotaExceeded, Unavailable

log = structlog.get_logger(module="quotas")

STEP_TOKENS = 256
"""A choice without ``max_tokens`` is granted so many at a time."""

LEASE_SECONDS = 2.0
"""How long a request waits for PostgreSQL when the lease is spent."""

_CHARACTERS_PER_TOKEN = 3
_TOKENS_PER_MESSAGE = 8
_TOKENS_PER_PROMPT = 24
"""Templates add words of their own. A prompt that comes to more than it was estimated asks once more."""


class LeaseFeed(Protocol):
    """What speaks to SQL: :class:`inference.gateway.leases.LeaseThread`."""

    def start(self, answer: Callable[[Ask, Leased | None], None]) -> None: ...
    def ask(self, asks: Sequence[Ask]) -> None: ...
    def charge(self, lease: int, charged: int) -> None: ...
    def keep_up(self, upkeep: Upkeep) -> None: ...
    async def stop(self) -> None: ...


class Admission:
    """Owned by the event loop."""

    def __init__(self, leases: LeaseFeed, zone: ZoneInfo) -> None:
        self._ledger = Ledger(zone)
        self._zone = zone
        self._leases = leases
        self._waiting: dict[Balance, list[asyncio.Future[bool]]] = {}
        self._told: dict[int, Holding] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        """Of requests that wait for a grant."""

    def start(self) -> None:
        self._leases.start(self._answer)

    async def stop(self) -> None:
        """All that is not spent goes back."""
        self._ledger.retune(())
        self.keep_up()
        await self._leases.stop()

    def retune(self, limits: Iterable[ModelLimits]) -> None:
        """These are all limits that there are now."""
        self._ledger.retune(account for each in limits for account in each.accounts)

    def keep_up(self) -> None:
        """To be called every second: SQL is told what has changed."""
        self._ledger.want_debts()
        self._ask()
        self._ledger.give_back(time.time())
        told = {}
        for balance in self._ledger.balances():
            # While SQL is asked nobody knows what is granted.
            if balance.lease is not None and not balance.asking:
                holding = Holding(balance.granted, balance.spent, balance.reserved)
                if self._told.get(balance.lease) != holding:
                    told[balance.lease] = self._told[balance.lease] = holding
        closed = [balance.lease for balance in self._ledger.take_closed() if balance.lease is not None]
        for lease in closed:
            self._told.pop(lease, None)
        if told or closed:
            self._leases.keep_up(Upkeep(told, closed))

    async def admit(self, request: InferenceRequest, limits: ModelLimits) -> "RequestMeter | None":
        """What the request is promised; None: nothing limits it.

        Raises:
            QuotaExceeded: which limit, and when its window ends.
            Unavailable: the lease is spent and PostgreSQL can't be asked for more.
        """
        if not limits.accounts and limits.burst is None:
            return None
        grants = _first_grants(request, limits)
        permit = await self._reserve(limits, sum(grants))
        return RequestMeter(self, permit, limits, grants, request.n)

    def settle(self, permit: Permit, tokens: int | None) -> None:
        self._ledger.settle(permit, tokens)
        self._charge(permit)

    async def extend(self, permit: Permit, tokens: int) -> bool:
        """Promise a running request more. False: there is no more to be had."""
        while short := self._ledger.extend(permit, tokens, time.time()):
            if self._ledger.want(short, time.time()) or not await self._leased(short[0].balance):
                return False
            if permit.settled:  # its client has left meanwhile
                return False
        self._charge(permit)
        return True

    def refusal(self, permit: Permit, tokens: int) -> QuotaExceeded | None:
        """Why a request can't be promised so many more; None: it could by now."""
        short = self._ledger.extend(permit, tokens, time.time())
        return self._exceeded(short[0], time.time()) if short else None

    def headers(self, limits: ModelLimits) -> HeaderList:
        """Of the tightest limit on tokens, and of that on requests: what can still be promised."""
        now = time.time()
        headers: HeaderList = []
        for unit in Unit:
            known = [
                (_remaining(account, balance), account.limit, balance.window.ends_at)
                for account in limits.accounts
                if account.unit is unit and (balance := self._ledger.find(account, now)) is not None
            ]
            if known:
                remaining, limit, ends_at = min(known)
                name = unit.value.encode()
                headers += [
                    (b"x-ratelimit-limit-" + name, b"%d" % limit),
                    (b"x-ratelimit-remaining-" + name, b"%d" % remaining),
                    (b"x-ratelimit-reset-" + name, b"%ds" % max(1, ends_at - now)),
                ]
        return headers

    async def _reserve(self, limits: ModelLimits, tokens: int) -> Permit:
        while True:
            now = time.time()
            promised = self._ledger.reserve(limits.accounts, tokens, now)
            if isinstance(promised, Permit):
                break
            if vain := self._ledger.want(promised, now):
                raise self._exceeded(vain[0], now)
            if not await self._leased(promised[0].balance):
                if not limits.open_without_database:
                    raise Unavailable(
                        "What is left of this model's limits is not known while PostgreSQL is away: try again later.",
                        code="quota_unavailable",
                        retry_after=5,
                    )
                promised = self._ledger.owe(limits.accounts, tokens, now)
                break
        try:
            self._charge(promised)
        except JournalFull:
            self._ledger.settle(promised, None)
            raise Unavailable(
                "More limits are in use than a gateway can keep account of.", code="quota_unavailable"
            ) from None
        self._ask()
        return promised

    async def _leased(self, balance: Balance) -> bool:
        """Wait until SQL was asked for more of a balance. False: it can't be asked."""
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(balance, []).append(waiter)
        self._ask()
        try:
            async with asyncio.timeout(LEASE_SECONDS):
                return await waiter
        except TimeoutError:
            return False

    def _ask(self) -> None:
        if self._ledger.wants_more and (asks := self._ledger.take_asks()):
            self._leases.ask(asks)

    def _answer(self, ask: Ask, leased: Leased | None) -> None:
        if leased is None:
            self._ledger.unanswered(ask)
        else:
            self._ledger.granted(ask, leased.amount, leased.left, time.time(), lease=leased.lease)
            self._told.pop(leased.lease, None)  # SQL has another number now, even if all of it is given back at once
        for waiter in self._waiting.pop(ask.balance, ()):
            if not waiter.done():
                waiter.set_result(leased is not None)
        self._ask()

    def _charge(self, permit: Permit) -> None:
        """Before the work is sent: whatever becomes of us, what was promised counts."""
        for balance, _ in permit.holdings:
            if balance.lease is not None:
                self._leases.charge(balance.lease, balance.charged)

    def _exceeded(self, shortage: Shortage, now: float) -> QuotaExceeded:
        account, window = shortage.balance.account, shortage.balance.window
        left = _remaining(account, shortage.balance)
        used_up = f"{account.owner} has {left} {account.unit} left of its {account.name} of {account.limit}"
        need = f"this request needs {shortage.amount}" if account.unit is Unit.TOKENS else "this is one more"
        ends = datetime.fromtimestamp(window.ends_at, self._zone)
        log.error("Quota exceeded", limit=account.name, owner=account.owner, left=left, needed=shortage.amount)
        if shortage.amount > account.limit:
            return QuotaExceeded(f"{used_up}, and {need}: ask for fewer, or have the limit raised.", param="max_tokens")
        return QuotaExceeded(
            f"{used_up}, and {need}. The {account.period}'s window ends at {ends:%Y-%m-%d %H:%M:%S %Z}: try again "
            "then, ask for fewer tokens, or have the limit raised.",
            retry_after=max(1, round(window.ends_at - now)),
        )


class RequestMeter:
    """What one request was promised and uses. It is settled once, when it is over and its workers have said so."""

    def __init__(
        self, admission: Admission, permit: Permit, limits: ModelLimits, grants: Sequence[int], choices: int
    ) -> None:
        self._admission = admission
        self._permit = permit
        self._burst = limits.burst
        self._grants = grants
        self._step = STEP_TOKENS * choices
        self._open: set[PartMeter] = set()
        self._tokens = 0
        self._closed = False
        self.refused: QuotaExceeded | None = None
        """Why its prompt can't be computed, though it was admitted: it is longer than was estimated."""

    def begin(self) -> "list[PartMeter]":
        """It is sent to a worker, for the first time or again, when what an earlier one did costs nothing: the meters
        of its prompts."""
        parts = [PartMeter(self, granted) for granted in self._grants]
        self._open, self._tokens = set(parts), 0
        return parts

    def close(self) -> None:
        """Nobody waits for its answer any more."""
        self._closed = True
        self._settle()

    def ended(self, part: "PartMeter", tokens: int) -> None:
        if part in self._open:  # else it was of an earlier attempt
            self._open.discard(part)
            self._tokens += tokens
            self._settle()

    async def grant_more(self, part: "PartMeter", least: int) -> bool:
        """False: that is all it gets."""
        wanted = max(least, self._step)
        if self._burst is not None:
            wanted = min(wanted, self._burst - self._permit.tokens)
        if wanted < least:
            self.refused = _burst_exceeded(self._burst or 0, self._permit.tokens + least)
            return False
        for tokens in dict.fromkeys((wanted, least)):
            if not self._permit.settled and await self._admission.extend(self._permit, tokens):
                part.granted += tokens
                return True
        if not self._permit.settled:
            self.refused = self._admission.refusal(self._permit, least)
        return False

    def later(self, part: "PartMeter", least: int, connection: WorkerConnection, request_id: int) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(part, least, connection, request_id))
        self._admission.tasks.add(task)
        task.add_done_callback(self._admission.tasks.discard)

    async def _answer(self, part: "PartMeter", least: int, connection: WorkerConnection, request_id: int) -> None:
        more = await self.grant_more(part, least)
        connection.grant(Grant(id=request_id, tokens=part.granted, last=not more))

    def _settle(self) -> None:
        if self._closed and not self._open and not self._permit.settled:
            self._admission.settle(self._permit, self._tokens or None)


class PartMeter(Meter):
    """Counts what one worker does for a request, until it says that it is over, also after its client has left."""

    def __init__(self, request: RequestMeter, granted: int) -> None:
        self._request = request
        self.granted = granted
        self._prompt_tokens = 0
        self._tokens = 0

    def feed(
        self, message: Accepted | Wants | Delta | Finished | Failed | Embedded, connection: WorkerConnection
    ) -> bool:
        """Whether it is over."""
        if isinstance(message, Delta):
            self._tokens = message.tokens
        elif isinstance(message, Accepted):
            self._prompt_tokens = message.prompt_tokens
        elif isinstance(message, Wants):
            self._request.later(self, message.tokens - self.granted, connection, message.id)
        elif isinstance(message, Finished):
            begun = message.completion_tokens or message.prefill_seconds or message.reason is not FinishReason.CANCELLED
            self._request.ended(self, message.prompt_tokens + message.completion_tokens if begun else 0)
            return True
        elif isinstance(message, Embedded):
            self._request.ended(self, message.prompt_tokens)
            return True
        else:
            self.lose()
            return True
        return False

    def lose(self) -> None:
        """The worker failed or is gone: what the client may have of its answer counts."""
        self._request.ended(self, self._prompt_tokens + self._tokens if self._tokens else 0)


def _first_grants(request: InferenceRequest, limits: ModelLimits) -> list[int]:
    """Of each prompt, together with its choices.

    Raises:
        QuotaExceeded: ``max_tokens`` alone is more than one request may have.
    """
    answer = 0 if request.inputs else request.n * (STEP_TOKENS if request.max_tokens is None else request.max_tokens)
    prompts = _prompt_estimates(request)
    if limits.burst is not None:
        if answer * len(prompts) >= limits.burst and request.max_tokens is not None:
            raise _burst_exceeded(limits.burst, answer * len(prompts) + len(prompts))
        if sum(prompts) + answer * len(prompts) > limits.burst:
            return [limits.burst // len(prompts)] * len(prompts)
    return [prompt + answer for prompt in prompts]


def _prompt_estimates(request: InferenceRequest) -> list[int]:
    if request.inputs:
        return [sum(_estimate(content) for content in request.inputs)]
    if request.messages is not None:
        text = sum(len(message.content) + len(message.reasoning or "") for message in request.messages)
        text += sum(len(call.arguments) for message in request.messages for call in message.tool_calls)
        text += sum(len(tool.parameters) + len(tool.description) + len(tool.name) for tool in request.tools)
        return [_TOKENS_PER_PROMPT + _TOKENS_PER_MESSAGE * len(request.messages) + text // _CHARACTERS_PER_TOKEN]
    first = request.tokens if request.tokens is not None else (request.text or "") + (request.suffix or "")
    return [_estimate(content) for content in (first, *request.further_prompts)]


def _estimate(content: str | tuple[int, ...]) -> int:
    """Of text that no template is put around."""
    return len(content) + 2 if isinstance(content, tuple) else 4 + len(content) // _CHARACTERS_PER_TOKEN


def _burst_exceeded(burst: int, tokens: int) -> QuotaExceeded:
    return QuotaExceeded(
        f"The prompt and its answer come to at least {tokens} tokens, and this model's burst_token_limit lets one "
        f"request have {burst}: send a shorter prompt, or lower max_tokens and n.",
        param="max_tokens",
    )


def _remaining(account: Account, balance: Balance) -> int:
    """What can still be promised, by all processes together, as far as this one knows."""
    left = account.limit if balance.left is None else balance.left
    return max(0, left + balance.available)
