"""What this process was granted of each limit's window, and what it has spent and promised of it. Pure: no clock, no
SQL.

A limit is an :class:`Account`. Of the window that a moment is in, each gateway process leases small parts from SQL
(:mod:`quotas.treasury`) and spends them by itself:

    granted  =  spent (settled, real counts)  +  reserved (promised to requests that run)  +  available

All leases of a window together never exceed its limit, so N processes can't overspend it, however they die. A request
belongs to the window in which it was admitted: what it is promised later, and what it gives back, are that window's.

The same is done once more within the process: requests that are held to the same limits spend from a :class:`Purse`,
into which a little is taken of all these limits at once, as long as there is plenty. So a request costs the same
whatever the number of its limits. What is in a purse counts as reserved; all are emptied every second, and as soon as
anything is short.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from zoneinfo import ZoneInfo

import msgspec

from quotas.windows import Period, Window, window_at

PARTS = 200
"""A limit is leased in parts of 0.5 %: what a process holds and does not need is so much at most."""

REFUSED_SECONDS = 0.2
"""A window that has nothing left is asked again no sooner: others may have given back."""

_PLENTY_PARTS = PARTS // 10
"""As long as so many parts are left, the next one is asked for before it is needed."""

IDLE_SECONDS = 2.0
"""What nothing was reserved from for so long is given back."""

PURSE_REQUESTS = 4
"""A purse holds enough for so many requests, or nothing."""

_ENDLESS = 1 << 62


class Unit(StrEnum):
    TOKENS = "tokens"
    REQUESTS = "requests"


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A limit on what a subject may use in each window of a period."""

    key: str
    """What stays when the limit changes: ``model:12/tokens/hour``."""
    unit: Unit
    period: Period
    limit: int
    name: str
    """As its owner calls it: ``hourly_token_limit``."""
    owner: str
    """As a client is told: ``The model 'x'``."""


class Balance:
    """Of one account in one window, as this process has it."""

    __slots__ = (
        "_account",
        "asking",
        "available",
        "closed",
        "in_purses",
        "lease",
        "left",
        "low",
        "part",
        "refused_at",
        "reserved",
        "spent",
        "stale",
        "used_at",
        "window",
    )

    def __init__(self, account: Account, window: Window) -> None:
        self.account = account
        self.window = window
        self.available = 0
        self.spent = 0
        self.reserved = 0
        self.in_purses = 0
        """The most that purses may hold of it, which is part of what is reserved."""
        self.lease: int | None = None
        """Where SQL keeps what was granted; None: nothing was yet."""
        self.closed = False
        """It is forgotten: nothing may be taken of it any more."""
        self.asking = False
        """SQL was asked for more and has not answered yet."""
        self.low = 0
        """With less than this available, the next part is asked for before it is needed. 0: it is not."""
        self.stale = False
        """What is available was leased under another limit, or for a window that is over."""
        self.left = account.limit
        """What nobody had leased when SQL last answered; before that, all of it."""
        self.refused_at = float("-inf")
        """When it last gave less than was needed."""
        self.used_at = float("-inf")

    def __repr__(self) -> str:
        numbers = f"granted={self.granted}, spent={self.spent}, reserved={self.reserved}"
        return f"Balance({self.account.key} @{self.window.starts_at}: {numbers})"

    @property
    def account(self) -> Account:
        return self._account

    @account.setter
    def account(self, account: Account) -> None:
        self._account = account
        self.part = max(1, account.limit // PARTS)

    @property
    def granted(self) -> int:
        return self.spent + self.reserved + self.available

    @property
    def charged(self) -> int:
        """What would be lost with this process: spent, and promised."""
        return self.spent + self.reserved


class Ask(msgspec.Struct, frozen=True):
    """Wanted from SQL."""

    balance: Balance
    need: int
    """At least so much, if it is there at all; what SQL gives beyond is the account's part, or less near the end."""


class Shortage(msgspec.Struct, frozen=True):
    """Why a request can't be admitted right now."""

    balance: Balance
    amount: int
    """What the request needs of it in all."""

    @property
    def missing(self) -> int:
        return self.amount - self.balance.available


class Purse:
    """What requests of one allowance may spend without looking at its balances of one unit."""

    __slots__ = ("balances", "free", "most", "read_at", "spent", "tightest")

    def __init__(self, balances: tuple[Balance, ...]) -> None:
        self.balances = balances
        self.free = 0 if balances else _ENDLESS
        self.spent = 0
        """By requests that are settled; their balances count it as reserved until the purse is emptied."""
        self.most = 0 if balances else 2 * _ENDLESS
        """It is emptied when so much is free. 0: it is as soon as a request is settled."""
        self.tightest: Balance | None = None
        """Of which least was left when its balances were looked at last."""
        self.read_at = -1
        """That was at this change of any balance."""


def _left(balance: Balance) -> int:
    return balance.left + balance.available


class Allowance:
    """What requests of one kind are held to: its accounts, and the purses of the windows of now."""

    __slots__ = ("accounts", "requests", "since", "tokens", "until")

    def __init__(self, accounts: Iterable[Account]) -> None:
        self.accounts = tuple(accounts)
        self.tokens = self.requests = Purse(())
        self.since, self.until = 0.0, 0.0
        """The purses are right as long as ``since`` ≤ now < ``until``."""


class Reservation:
    """What one request was promised: so many ``tokens``, and a place among the requests. Settle it exactly once."""

    __slots__ = ("of_requests", "of_tokens", "settled", "tokens")

    def __init__(self, of_tokens: Purse, of_requests: Purse, tokens: int) -> None:
        self.of_tokens = of_tokens
        self.of_requests = of_requests
        self.tokens = tokens
        self.settled = False


class Ledger:
    """The balances of one process. Owned by its event loop."""

    def __init__(self, zone: ZoneInfo, charge: Callable[[Iterable[Balance]], None]) -> None:
        """``charge`` is told whenever more or less of a balance would be lost with this process."""
        self._zone = zone
        self._charge = charge
        self._open: set[Purse] = set()
        """Which may hold something."""
        self._changes = 0
        """Of balances, so far."""
        self._current: dict[str, Balance] = {}
        """By the account's key."""
        self._balances: dict[tuple[str, int], Balance] = {}
        """All, of windows that are over, too, by the account's key and the window's start."""
        self._wanted: dict[Balance, int] = {}

    # --- A request ---------------------------------------------------------------------------------------------------

    def reserve(self, allowance: Allowance, tokens: int, now: float) -> Reservation | list[Shortage]:
        """Promise a request ``tokens`` and a place among the requests, of all accounts or of none."""
        if not allowance.since <= now < allowance.until:
            self._turn(allowance, now)
        if (allowance.tokens.free < tokens or allowance.requests.free < 1) and (
            short := self._fill_both(allowance, tokens, now)
        ):
            return short
        of_tokens, of_requests = allowance.tokens, allowance.requests
        of_tokens.free -= tokens
        of_requests.free -= 1
        return Reservation(of_tokens, of_requests, tokens)

    def extend(self, reservation: Reservation, tokens: int, now: float) -> list[Shortage]:
        """Promise a running request so many tokens more, of all its accounts or of none: then those that lack it."""
        assert not reservation.settled
        purse = reservation.of_tokens
        if not self._fill(purse, tokens, now):
            self.empty_purses()
            if not self._fill(purse, tokens, now):
                return _shortages(purse, tokens)
        purse.free -= tokens
        reservation.tokens += tokens
        return []

    def owe(self, allowance: Allowance, tokens: int, now: float) -> Reservation:
        """Promise what was not granted, since SQL can't be asked: it is leased as soon as that can be."""
        if not allowance.since <= now < allowance.until:
            self._turn(allowance, now)
        for purse, amount in ((allowance.tokens, tokens), (allowance.requests, 1)):
            self._take(purse.balances, amount, now)
        return Reservation(allowance.tokens, allowance.requests, tokens)

    def settle(self, reservation: Reservation, tokens: int | None) -> None:
        """The request is over: it used ``tokens``; None: it was never served, and costs nothing."""
        assert not reservation.settled, "settled twice"
        reservation.settled = True
        used, served = (0, 0) if tokens is None else (tokens, 1)
        self._put_back(reservation.of_tokens, reservation.tokens - used, used)
        self._put_back(reservation.of_requests, 1 - served, served)

    def left(self, purse: Purse) -> tuple[Balance, int]:
        """The balance of which least is left, and what can still be promised of it, as far as is known here."""
        if purse.read_at != self._changes or purse.tightest is None:
            purse.tightest, purse.read_at = min(purse.balances, key=_left), self._changes
        tightest = purse.tightest
        return tightest, max(0, tightest.left + tightest.available + purse.free)

    def empty_purses(self) -> None:
        """All balances are as if there were no purses."""
        for purse in self._open:
            self._empty(purse)
        self._open.clear()

    # --- SQL's answers, and what it is to be asked -------------------------------------------------------------------

    def want(self, shortages: Iterable[Shortage], now: float) -> list[Shortage]:
        """Have SQL asked for what is missing. Returns those for which that is in vain: the limit is lower, or SQL has
        just said that it has not so much left."""
        vain = []
        for shortage in shortages:
            balance = shortage.balance
            known = now - balance.refused_at < REFUSED_SECONDS
            if shortage.amount > balance.account.limit or (known and shortage.missing > balance.left):
                vain.append(shortage)
            else:
                self._wanted[balance] = self._wanted.get(balance, 0) + shortage.missing
        return vain

    @property
    def wants_more(self) -> bool:
        return bool(self._wanted)

    def take_asks(self) -> list[Ask]:
        """What SQL should be asked for now; one question for each balance at a time."""
        asks = [Ask(balance, need) for balance, need in self._wanted.items() if not balance.asking]
        for ask in asks:
            ask.balance.asking = True
            ask.balance.low = 0
            del self._wanted[ask.balance]
        return asks

    def granted(self, ask: Ask, amount: int, left: int, now: float, *, lease: int = 0) -> None:
        """SQL's answer: ``amount`` more is ours, and ``left`` is nobody's yet."""
        balance = ask.balance
        balance.asking = False
        balance.lease = lease
        balance.available += amount
        balance.left = left
        balance.low = _low(balance)
        self._changes += 1
        self._charge((balance,))  # what was promised without a lease
        if amount < ask.need:
            balance.refused_at = now

    def told(self, balance: Balance, left: int) -> None:
        """SQL has said, beside something else, what nobody has leased now."""
        balance.left = left
        self._changes += 1
        if not balance.asking:
            balance.low = _low(balance)

    def want_debts(self) -> None:
        """Have SQL asked for what was promised without it."""
        for balance in self._balances.values():
            if balance.available < 0:
                self._wanted[balance] = max(self._wanted.get(balance, 0), -balance.available)

    def unanswered(self, ask: Ask) -> None:
        """SQL could not be asked."""
        ask.balance.asking = False

    def retune(self, accounts: Mapping[str, Account]) -> None:
        """These are all accounts that there are now, by their keys. What was leased under another limit is to be given
        back. Allowances that were made before are void."""
        self.empty_purses()
        self._changes += 1
        for key, balance in list(self._current.items()):
            account = accounts.get(key)
            if account is None:
                self._retire(balance)
            elif account != balance.account:
                balance.stale = balance.account.limit != account.limit
                balance.account = account
                balance.left, balance.low, balance.refused_at = account.limit, 0, float("-inf")

    def give_back(self, now: float) -> list[tuple[Balance, int]]:
        """What is to be given back to SQL, and is ours no longer: what lies idle, is more than two parts, or was leased
        for a window that is over or under another limit."""
        self.empty_purses()
        for balance in list(self._current.values()):
            if not balance.window.holds(now):
                self._retire(balance)
        back = []
        for balance in self._balances.values():
            surplus = 0 if balance.asking else self._surplus(balance, now)
            if surplus > 0:
                balance.available -= surplus
                balance.left += surplus
                self._changes += 1
                back.append((balance, surplus))
        return back

    def take_closed(self) -> list[Balance]:
        """Balances that nothing can change any more, after what they gave back. They are forgotten here."""
        closed = [
            balance
            for balance in self._balances.values()
            if self._current.get(balance.account.key) is not balance
            and not (balance.reserved or balance.available or balance.asking)
        ]
        for balance in closed:
            balance.closed = True
            del self._balances[balance.account.key, balance.window.starts_at]
            self._wanted.pop(balance, None)
        return closed

    def balances(self) -> list[Balance]:
        """All that are known, of windows that are over, too."""
        return list(self._balances.values())

    # --- Inside ------------------------------------------------------------------------------------------------------

    def _turn(self, allowance: Allowance, now: float) -> None:
        """Find the balances of the windows that have begun: or begun again, where the clock went back."""
        balances = [self._balance(account, now) for account in allowance.accounts]
        allowance.tokens, allowance.requests = (
            Purse(tuple(balance for balance in balances if balance.account.unit is unit)) for unit in Unit
        )
        allowance.since = max((balance.window.starts_at for balance in balances), default=float("-inf"))
        allowance.until = min((balance.window.ends_at for balance in balances), default=float("inf"))

    def _fill_both(self, allowance: Allowance, tokens: int, now: float) -> list[Shortage]:
        """Have enough for a request in both purses, or in none, and say what there is not enough of."""
        of_tokens, of_requests = allowance.tokens, allowance.requests
        if any(balance.closed for balance in of_tokens.balances + of_requests.balances):  # the clock went back
            self._turn(allowance, now)
            of_tokens, of_requests = allowance.tokens, allowance.requests
        for _ in range(2):
            if self._fill(of_tokens, tokens, now) and self._fill(of_requests, 1, now):
                return []
            self.empty_purses()  # the first time, since others may hold what is missing
        return [*_shortages(of_tokens, tokens), *_shortages(of_requests, 1)]

    def _fill(self, purse: Purse, amount: int, now: float) -> bool:
        """Have so much in it, or more. False: there is not so much of one of its balances."""
        missing = amount - purse.free
        if missing <= 0:
            return True
        for balance in purse.balances:
            if balance.available < missing:
                return False
        for balance in purse.balances:
            balance.in_purses -= purse.most
        room = min(min(b.part // 2 - b.in_purses, (b.available - missing) // 4) for b in purse.balances)
        purse.most = room if room >= PURSE_REQUESTS * amount else 0
        for balance in purse.balances:
            balance.in_purses += purse.most
        taken = missing + purse.most // 2
        purse.free += taken
        self._open.add(purse)
        self._take(purse.balances, taken, now)
        return True

    def _take(self, balances: Sequence[Balance], amount: int, now: float) -> None:
        self._changes += 1
        for balance in balances:
            balance.available -= amount
            balance.reserved += amount
            balance.used_at = now
            if balance.available < balance.low:
                self._in_good_time(balance)
        self._charge(balances)

    def _put_back(self, purse: Purse, unused: int, used: int) -> None:
        purse.free += unused
        purse.spent += used
        if purse.free >= purse.most:
            self._empty(purse)
        else:
            self._open.add(purse)

    def _empty(self, purse: Purse) -> None:
        if not purse.balances:
            return
        for balance in purse.balances:
            balance.reserved -= purse.free + purse.spent
            balance.spent += purse.spent
            balance.available += purse.free
            balance.in_purses -= purse.most
        purse.free = purse.spent = purse.most = 0
        self._changes += 1
        self._charge(purse.balances)

    def _balance(self, account: Account, now: float) -> Balance:
        old = self._current.get(account.key)
        if old is not None:
            if old.window.holds(now):
                return old
            self._retire(old)
        window = window_at(account.period, now, self._zone)
        balance = self._balances.get((account.key, window.starts_at))
        if balance is None:
            balance = self._balances[account.key, window.starts_at] = Balance(account, window)
        balance.account, balance.stale = account, False
        self._current[account.key] = balance
        return balance

    def _retire(self, balance: Balance) -> None:
        balance.stale = True
        del self._current[balance.account.key]

    def _in_good_time(self, balance: Balance) -> None:
        """Have the next part asked for, so that few requests wait for SQL."""
        self._wanted.setdefault(balance, balance.part)

    def _surplus(self, balance: Balance, now: float) -> int:
        if balance.stale or now - balance.used_at > IDLE_SECONDS or balance.left == 0:
            balance.stale = self._current.get(balance.account.key) is not balance
            return balance.available
        return max(0, balance.available - 2 * balance.part)


def _shortages(purse: Purse, amount: int) -> list[Shortage]:
    return [Shortage(balance, amount) for balance in purse.balances if balance.available < amount]


def _low(balance: Balance) -> int:
    """Near the end another process may need what is left: nothing is asked for before it is needed."""
    if balance.left < _PLENTY_PARTS * balance.part:
        return 0
    return (balance.part + 1) // 2
