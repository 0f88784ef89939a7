"""What this process promises of limits' windows: its ledger, and what stands between that and SQL.

An admitted request waits for nobody, except for the one in some hundreds that finds its lease spent. What is promised
is charged to the journal before the work is sent, so it counts whatever becomes of this process.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol
from zoneinfo import ZoneInfo

import structlog

from inference.gateway.asgi import HeaderList
from inference.gateway.leases import Answered, Upkeep
from inference.gateway.standings import Reached, Standings
from quotas.journal import JournalFull
from quotas.ledger import Account, Allowance, Ask, Balance, Ledger, Purse, Reservation, Shortage, Unit
from quotas.limits import ModelLimits
from quotas.treasury import Holding, Leased, Reading
from quotas.windows import Period
from registry.errors import QuotaExceeded, Unavailable

log = structlog.get_logger(module="quotas")

QUOTA_EXCEEDED = "quota_exceeded"

LEASE_SECONDS = 2.0
"""How long a request waits for PostgreSQL when the lease is spent."""

_TOKENS_HEADERS = b"x-ratelimit-limit-tokens", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens"
_REQUESTS_HEADERS = b"x-ratelimit-limit-requests", b"x-ratelimit-remaining-requests", b"x-ratelimit-reset-requests"


class LeaseFeed(Protocol):
    """What speaks to SQL: :class:`inference.gateway.leases.LeaseThread`."""

    def start(self, answered: Answered) -> None: ...
    def ask(self, asks: Sequence[Ask]) -> None: ...
    def opened(self, lease: int) -> None: ...
    def charge(self, balances: Iterable[Balance]) -> None: ...
    def reached(self, reached: Reached) -> None: ...
    def keep_up(self, upkeep: Upkeep) -> None: ...
    async def stop(self) -> None: ...


class Promises:
    """Owned by the event loop."""

    def __init__(self, leases: LeaseFeed, zone: ZoneInfo) -> None:
        self._ledger = Ledger(zone, leases.charge)
        self._zone = zone
        self._leases = leases
        self._waiting: dict[Balance, list[asyncio.Future[bool]]] = {}
        self._told: dict[int, Holding] = {}
        self._by_lease: dict[int, Balance] = {}
        self.standings = Standings(leases.reached)
        self.refills = 0
        """So often SQL was asked for more."""
        self.away = False
        """PostgreSQL did not answer when it was asked last."""

    def start(self) -> None:
        self._leases.start(self)

    async def stop(self) -> None:
        """All that is not spent goes back."""
        self._ledger.retune({})
        self._ledger.give_back(time.time())
        self._tell(reading=False)
        await self._leases.stop()

    def retune(self, limits: Mapping[str, ModelLimits], accounts: Mapping[str, Account]) -> None:
        """These are all limits of models, and all accounts by their keys, that there are now."""
        self._ledger.retune(accounts)
        self.standings.retune(limits)

    def keep_up(self) -> None:
        """To be called every second: SQL is told what has changed, and asked how the windows stand."""
        self._ledger.want_debts()
        self._ask()
        self._ledger.give_back(time.time())
        self._tell(reading=self.standings.limited)

    def reserve_at_once(self, allowance: Allowance, tokens: int) -> Reservation | None:
        """Promise a request what it needs, if it is there; None: see :meth:`reserve`."""
        promised = self._ledger.reserve(allowance, tokens, time.time())
        if not isinstance(promised, Reservation):
            return None
        self._ask()
        return promised

    async def reserve(self, allowance: Callable[[], Allowance], tokens: int, *, owing: bool) -> Reservation | Shortage:
        """Promise a request what it needs, or say what there is not enough of.

        Args:
            allowance: what it is held to, asked for anew after each wait: limits may have changed meanwhile.
            owing: where PostgreSQL can't be asked, promise what was not leased.

        Raises:
            Unavailable: the lease is spent and PostgreSQL can't be asked for more.
        """
        while True:
            now = time.time()
            promised = self._ledger.reserve(allowance(), tokens, now)
            if isinstance(promised, Reservation):
                break
            if vain := self._ledger.want(promised, now):
                return vain[0]
            if not await self._more_leased(promised[0].balance):
                if not owing:
                    raise Unavailable(
                        "What is left of the limits is not known while PostgreSQL is away: try again later.",
                        code="quota_unavailable",
                        retry_after=5,
                    )
                promised = self._ledger.owe(allowance(), tokens, time.time())
                break
        self._ask()
        return promised

    async def extend(self, reservation: Reservation, tokens: int) -> bool:
        """Promise a running request more. False: there is no more to be had."""
        while short := self._ledger.extend(reservation, tokens, time.time()):
            if self._ledger.want(short, time.time()) or not await self._more_leased(short[0].balance):
                return False
            if reservation.settled:  # its client has left meanwhile
                return False
        return True

    def settle(self, reservation: Reservation, tokens: int | None) -> None:
        """It used so many; None: it was never served."""
        self._ledger.settle(reservation, tokens)

    def refusal(self, reservation: Reservation, tokens: int) -> QuotaExceeded | None:
        """Why a request can't be promised so many more; None: it could by now."""
        short = self._ledger.extend(reservation, tokens, time.time())
        return self.exceeded(short[0]) if short else None

    def exceeded(self, shortage: Shortage) -> QuotaExceeded:
        """What a client is told of it."""
        account, window = shortage.balance.account, shortage.balance.window
        left = _remaining(shortage.balance)
        used_up = f"{account.owner} has {left} {account.unit} left of its {account.name} of {account.limit}"
        need = f"this request needs {shortage.amount}" if account.unit is Unit.TOKENS else "this is one more"
        code = "rate_limited" if account.period is Period.MINUTE else QUOTA_EXCEEDED
        fewer, param = ("ask for fewer tokens, or ", "max_tokens") if account.unit is Unit.TOKENS else ("", None)
        if shortage.amount > account.limit:
            return QuotaExceeded(f"{used_up}, and {need}: {fewer}have the limit raised.", param=param, code=code)
        ends = datetime.fromtimestamp(window.ends_at, self._zone)
        return QuotaExceeded(
            f"{used_up}, and {need}. The {account.period}'s window ends at {ends:%Y-%m-%d %H:%M:%S %Z}: try again "
            f"then, {fewer or 'or '}have the limit raised.",
            code=code,
            retry_after=max(1, round(window.ends_at - time.time())),
        )

    def headers(self, allowance: Allowance, now: float) -> HeaderList:
        """Of the tightest limit on tokens, and of that on requests: what can still be promised."""
        headers: HeaderList = []
        if allowance.since <= now < allowance.until:  # else nothing was asked of these windows yet
            if allowance.tokens.balances:
                headers += self._headers(allowance.tokens, _TOKENS_HEADERS, now)
            if allowance.requests.balances:
                headers += self._headers(allowance.requests, _REQUESTS_HEADERS, now)
        return headers

    def _headers(self, purse: Purse, names: tuple[bytes, bytes, bytes], now: float) -> HeaderList:
        tightest, left = self._ledger.left(purse)
        seconds = max(1, int(tightest.window.ends_at - now))
        return [(names[0], b"%d" % tightest.account.limit), (names[1], b"%d" % left), (names[2], b"%ds" % seconds)]

    async def _more_leased(self, balance: Balance) -> bool:
        """Wait until SQL was asked for more of a balance. False: it can't be asked."""
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(balance, []).append(waiter)
        self._ask()
        try:
            async with asyncio.timeout(LEASE_SECONDS):
                return await waiter
        except TimeoutError:
            self.away = True
            return False

    def _ask(self) -> None:
        if self._ledger.wants_more and (asks := self._ledger.take_asks()):
            self.refills += len(asks)
            self._leases.ask(asks)

    def _tell(self, *, reading: bool) -> None:
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
            self._by_lease.pop(lease, None)
        if told or closed or reading:
            self._leases.keep_up(Upkeep(told, closed, reading))

    # What SQL says: see Answered.

    def leased(self, ask: Ask, leased: Leased | None) -> None:
        balance = ask.balance
        self.away = leased is None
        fault = None
        if leased is None:
            self._ledger.unanswered(ask)
        else:
            amount = leased.amount
            try:
                self._leases.opened(leased.lease)
            except JournalFull:  # what could not be charged may not be promised: it goes back
                amount = 0
                fault = Unavailable(
                    "More limits are in use than a gateway can keep account of.", code="quota_unavailable"
                )
            self._ledger.granted(ask, amount, leased.left, time.time(), lease=leased.lease)
            self._told.pop(leased.lease, None)  # SQL has another number now, even if all of it is given back at once
            self._by_lease[leased.lease] = balance
            self.standings.leased(balance)
        for waiter in self._waiting.pop(balance, ()):
            if waiter.done():
                continue
            if fault is not None:
                waiter.set_exception(fault)
            else:
                waiter.set_result(leased is not None)
        self._ask()

    def told(self, taken: Mapping[int, int]) -> None:
        for lease, amount in taken.items():
            if (balance := self._by_lease.get(lease)) is not None:
                self._ledger.told(balance, max(0, balance.account.limit - amount))

    def read(self, readings: Sequence[Reading]) -> None:
        self.away = False
        self.standings.read(readings)


def _remaining(balance: Balance) -> int:
    """What can still be promised, by all processes together, as far as this one knows."""
    return max(0, balance.left + balance.available)
