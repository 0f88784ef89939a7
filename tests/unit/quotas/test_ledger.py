"""Reserving, settling and giving back of what was leased."""

from collections.abc import Iterable
from zoneinfo import ZoneInfo

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from quotas.ledger import (
    IDLE_SECONDS,
    PARTS,
    REFUSED_SECONDS,
    Account,
    Allowance,
    Ask,
    Balance,
    Ledger,
    Reservation,
    Unit,
)
from quotas.windows import Period

UTC = ZoneInfo("UTC")
NOON = 1_800_000_000.0 - 1_800_000_000.0 % 86_400 + 43_200


def account(limit: int = 1000, unit: Unit = Unit.TOKENS, period: Period = Period.HOUR) -> Account:
    name = f"{period}ly_{unit}_limit"
    return Account(
        key=f"model:1/{unit}/{period}", unit=unit, period=period, limit=limit, name=name, owner="The model 'm'"
    )


class Sql:
    """Windows as SQL has them: what was leased of each, never more than the limit."""

    def __init__(self) -> None:
        self.taken: dict[tuple[str, int], int] = {}

    def lease(self, ask: Ask) -> tuple[int, int]:
        """What is granted, and what is left."""
        balance = ask.balance
        key = balance.account.key, balance.window.starts_at
        taken = self.taken.get(key, 0)
        amount = max(0, min(balance.account.limit - taken, max(ask.need, balance.part)))
        self.taken[key] = taken + amount
        return amount, max(0, balance.account.limit - taken - amount)

    def give_back(self, ledger: Ledger, now: float) -> None:
        for balance, amount in ledger.give_back(now):
            self.taken[balance.account.key, balance.window.starts_at] -= amount


class Process:
    """A gateway: its ledger, and what its requests were promised."""

    def __init__(self, sql: Sql) -> None:
        self.sql = sql
        self.charged: dict[tuple[str, int], int] = {}
        """What its journal says, by the account's key and the window's start."""
        self.charges = 0
        self.ledger = Ledger(UTC, self._charge)
        self.reservations: list[Reservation] = []
        self._allowances: dict[tuple[Account, ...], Allowance] = {}

    def refill(self, now: float) -> None:
        for ask in self.ledger.take_asks():
            self.ledger.granted(ask, *self.sql.lease(ask), now)

    def admit(self, accounts: list[Account], tokens: int, now: float) -> Reservation | None:
        allowance = self.allowance(accounts)
        while isinstance(promised := self.ledger.reserve(allowance, tokens, now), list):
            if self.ledger.want(promised, now):
                return None
            self.refill(now)
        self.reservations.append(promised)
        return promised

    def allowance(self, accounts: list[Account]) -> Allowance:
        return self._allowances.setdefault(tuple(accounts), Allowance(accounts))

    def retune(self, accounts: list[Account]) -> None:
        self.ledger.retune({each.key: each for each in accounts})
        self._allowances.clear()

    def _charge(self, balances: Iterable[Balance]) -> None:
        self.charges += 1
        for balance in balances:
            self.charged[balance.account.key, balance.window.starts_at] = balance.charged


@pytest.fixture
def process() -> Process:
    return Process(Sql())


def test_a_request_is_promised_all_of_its_accounts_or_none(process: Process) -> None:
    tokens, requests = account(1000), account(1, Unit.REQUESTS)
    assert process.admit([tokens, requests], 100, NOON)
    assert process.admit([tokens, requests], 100, NOON) is None
    held = {balance.account.unit: balance.reserved for balance in process.ledger.balances()}
    assert held == {Unit.TOKENS: 100, Unit.REQUESTS: 1}


def test_what_was_not_used_can_be_used_by_the_next(process: Process) -> None:
    first = process.admit([account(1000)], 1000, NOON)
    assert first is not None
    assert process.admit([account(1000)], 1, NOON) is None
    process.ledger.settle(first, 400)
    assert process.admit([account(1000)], 601, NOON) is None
    assert process.admit([account(1000)], 600, NOON)


def test_a_request_that_was_never_served_costs_nothing(process: Process) -> None:
    accounts = [account(1000), account(1, Unit.REQUESTS)]
    first = process.admit(accounts, 1000, NOON)
    assert first is not None
    process.ledger.settle(first, None)
    assert process.admit(accounts, 1000, NOON)


def test_more_than_a_limit_ever_allows_is_not_asked_for(process: Process) -> None:
    shortages = process.ledger.reserve(Allowance([account(1000)]), 1001, NOON)
    assert isinstance(shortages, list)
    assert process.ledger.want(shortages, NOON) == shortages
    assert process.ledger.take_asks() == []


def test_after_a_refusal_sql_is_left_alone_for_a_moment(process: Process) -> None:
    assert process.admit([account(1000)], 1000, NOON)
    for later, asked in ((0.0, True), (REFUSED_SECONDS / 2, False), (REFUSED_SECONDS, True)):
        shortages = process.ledger.reserve(Allowance([account(1000)]), 10, NOON + later)
        assert isinstance(shortages, list)
        assert (not process.ledger.want(shortages, NOON + later)) is asked
        process.refill(NOON + later)


def test_the_next_part_is_asked_for_before_it_is_needed_but_not_near_the_end(process: Process) -> None:
    limit = 100 * PARTS
    assert process.admit([account(limit)], 60, NOON)
    assert [ask.need for ask in process.ledger.take_asks()] == [100]
    other = Process(Sql())
    other.sql.taken["model:1/tokens/hour", int(NOON)] = limit - 19 * 100
    assert other.admit([account(limit)], 60, NOON)
    assert other.ledger.take_asks() == []


def test_a_new_window_begins_anew_and_old_requests_stay_in_theirs(process: Process) -> None:
    old = process.admit([account(1000)], 1000, NOON)
    assert old is not None
    assert process.admit([account(1000)], 1000, NOON + 3600)
    assert process.ledger.extend(old, 1, NOON + 3600), "its window has nothing left"
    process.ledger.settle(old, 10)
    process.sql.give_back(process.ledger, NOON + 3600)
    assert process.sql.taken == {
        ("model:1/tokens/hour", int(NOON)): 10,
        ("model:1/tokens/hour", int(NOON) + 3600): 1000,
    }
    closed = process.ledger.take_closed()
    assert [(balance.window.starts_at, balance.spent) for balance in closed] == [(int(NOON), 10)]


def test_a_clock_that_goes_back_finds_its_window_as_it_was(process: Process) -> None:
    assert process.admit([account(1000)], 1000, NOON)
    assert process.admit([account(1000)], 1000, NOON + 3600)
    assert process.admit([account(1000)], 1, NOON + 10) is None


def test_what_lies_idle_is_given_back(process: Process) -> None:
    reservation = process.admit([account(100_000)], 10, NOON)
    assert reservation is not None
    process.ledger.settle(reservation, 10)
    process.ledger.take_asks()
    process.sql.give_back(process.ledger, NOON + IDLE_SECONDS)
    assert process.sql.taken == {("model:1/tokens/hour", int(NOON)): 500}
    later = NOON + IDLE_SECONDS + 0.1
    for balance in process.ledger.balances():
        balance.asking = False
    process.sql.give_back(process.ledger, later)
    assert process.sql.taken == {("model:1/tokens/hour", int(NOON)): 10}


@pytest.mark.parametrize("limit", [500, 2000, None])
def test_what_was_leased_under_another_limit_is_given_back_and_what_was_used_counts(
    process: Process, limit: int | None
) -> None:
    assert process.admit([account(1000)], 400, NOON)
    assert process.admit([account(1000)], 200, NOON)
    process.ledger.settle(process.reservations.pop(), 0)
    process.retune([account(limit)] if limit else [])
    process.sql.give_back(process.ledger, NOON)
    assert process.sql.taken == {("model:1/tokens/hour", int(NOON)): 400}
    if limit:
        assert process.admit([account(limit)], limit - 399, NOON) is None
        assert process.admit([account(limit)], limit - 400, NOON)


def test_an_extension_is_promised_by_all_accounts_or_by_none(process: Process) -> None:
    hour, day = account(1000), account(500, period=Period.DAY)
    reservation = process.admit([hour, day, account(5, Unit.REQUESTS)], 300, NOON)
    assert reservation is not None
    while short := process.ledger.extend(reservation, 100, NOON):
        assert not process.ledger.want(short, NOON)
        process.refill(NOON)
    assert reservation.tokens == 400
    assert [
        balance.account.period for balance in (s.balance for s in process.ledger.extend(reservation, 101, NOON))
    ] != []
    process.ledger.settle(reservation, 350)
    assert {b.account.name: b.spent for b in process.ledger.balances()} == {
        "hourly_tokens_limit": 350,
        "dayly_tokens_limit": 350,
        "hourly_requests_limit": 1,
    }


def test_as_long_as_there_is_plenty_few_requests_look_at_their_limits(process: Process) -> None:
    accounts = [account(10**9, unit, period) for unit in Unit for period in Period]
    assert process.admit(accounts, 300, NOON)
    process.charges = 0
    for _ in range(1000):
        reservation = process.admit(accounts, 300, NOON)
        assert reservation is not None
        process.ledger.settle(reservation, 200)
    assert process.charges <= 4
    process.ledger.empty_purses()
    spent = {(balance.account.unit, balance.spent) for balance in process.ledger.balances()}
    assert spent == {(Unit.TOKENS, 200_000), (Unit.REQUESTS, 1000)}


def test_what_one_allowance_holds_in_advance_another_one_gets_when_it_is_short(process: Process) -> None:
    mine, own, other = account(100_000), account(10**6, Unit.REQUESTS), account(10**6, Unit.REQUESTS, Period.DAY)
    assert process.admit([mine, own], 10, NOON)
    (shared,) = (balance for balance in process.ledger.balances() if balance.account == mine)
    held = shared.reserved - 10
    assert held > 0, "in its purse"
    assert isinstance(process.ledger.reserve(Allowance([mine, other]), shared.available + held + 1, NOON), list)
    assert shared.reserved == 10


def test_what_is_said_to_be_left_is_what_can_be_promised_whoever_else_has_spent(process: Process) -> None:
    model = account(100_000)
    mine, other = ([model, account(200_000, period=period)] for period in (Period.DAY, Period.MONTH))
    assert process.admit(mine, 10, NOON)
    for tokens in (20_000, 30_000, 49_000):
        assert process.admit(other, tokens, NOON)
        balance, left = process.ledger.left(process.allowance(mine).tokens)
        assert balance.account == model
        assert process.admit(mine, left + 1, NOON) is None
        promised = process.admit(mine, left, NOON)
        assert promised is not None
        process.ledger.settle(promised, None)


class Ledgers(RuleBasedStateMachine):
    """Three processes, one SQL, a limit that changes, windows that turn, processes that die."""

    LIMITS = (1, 7, 1000, 100_000)

    def __init__(self) -> None:
        super().__init__()
        self.sql = Sql()
        self.now = NOON
        self.limit = 1000
        self.highest = 1000
        self.used: dict[int, int] = {}
        """Tokens that were really used, by the start of the window."""
        self.processes = [Process(self.sql) for _ in range(3)]

    @property
    def accounts(self) -> list[Account]:
        return [account(self.limit), account(10_000_000, Unit.REQUESTS)]

    @rule(which=st.integers(0, 2), tokens=st.integers(1, 1200))
    def admit(self, which: int, tokens: int) -> None:
        self.processes[which].admit(self.accounts, tokens, self.now)

    @rule(which=st.integers(0, 2), tokens=st.integers(1, 400))
    def extend(self, which: int, tokens: int) -> None:
        process = self.processes[which]
        for reservation in process.reservations[-1:]:
            while short := process.ledger.extend(reservation, tokens, self.now):
                if process.ledger.want(short, self.now):
                    return
                process.refill(self.now)

    @rule(which=st.integers(0, 2), share=st.floats(0, 1))
    def settle(self, which: int, share: float) -> None:
        process = self.processes[which]
        if process.reservations:
            reservation = process.reservations.pop(0)
            self._use(reservation, tokens := round(reservation.tokens * share))
            process.ledger.settle(reservation, tokens)

    @rule(which=st.integers(0, 2))
    def never_served(self, which: int) -> None:
        process = self.processes[which]
        if process.reservations:
            process.ledger.settle(process.reservations.pop(), None)

    @rule(which=st.integers(0, 2))
    def refill(self, which: int) -> None:
        self.processes[which].refill(self.now)

    @rule(which=st.integers(0, 2))
    def tick(self, which: int) -> None:
        process = self.processes[which]
        self.sql.give_back(process.ledger, self.now)
        for balance in process.ledger.balances():
            assert balance.reserved == sum(
                reservation.tokens * (balance in reservation.of_tokens.balances)
                + (balance in reservation.of_requests.balances)
                for reservation in process.reservations
            ), "all purses are empty"
        process.ledger.take_closed()

    @rule(which=st.integers(0, 2), reclaimed=st.booleans())
    def die(self, which: int, reclaimed: bool) -> None:
        """What it had promised is charged; what it held is reclaimed, or lost to that window."""
        process = self.processes[which]
        for balance in process.ledger.balances() if reclaimed else ():
            if balance.available:  # else it may never have been leased anything
                self.sql.taken[balance.account.key, balance.window.starts_at] -= balance.available
        for reservation in process.reservations:
            self._use(reservation, reservation.tokens)
        self.processes[which] = Process(self.sql)

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 1800.0, 3600.0, -1800.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.limit < self.LIMITS[-1])
    @rule(limit=st.sampled_from(LIMITS))
    def raise_limit(self, limit: int) -> None:
        """A lower one may be below what was used: no promise can be made of it."""
        if limit > self.limit:
            self.limit = limit
            for process in self.processes:
                process.retune(self.accounts)

    @invariant()
    def never_above_the_limit(self) -> None:
        for used in self.used.values():
            assert used <= self.limit
        for (key, _), taken in self.sql.taken.items():
            assert 0 <= taken <= (self.limit if "tokens" in key else 10_000_000)

    @invariant()
    def what_is_granted_adds_up(self) -> None:
        held: dict[tuple[str, int], int] = {}
        for process in self.processes:
            promised: dict[Balance, int] = {}
            for reservation in process.reservations:
                for balance in reservation.of_tokens.balances:
                    promised[balance] = promised.get(balance, 0) + reservation.tokens
                for balance in reservation.of_requests.balances:
                    promised[balance] = promised.get(balance, 0) + 1
            for balance in process.ledger.balances():
                key = balance.account.key, balance.window.starts_at
                held[key] = held.get(key, 0) + balance.granted
                assert balance.available >= 0
                assert balance.reserved >= promised.get(balance, 0), "the rest is in purses"
                assert balance.charged == process.charged.get(key, 0), "the journal says what a kill would lose"
        for key, granted in held.items():
            assert granted <= self.sql.taken.get(key, 0)

    @invariant()
    def what_purses_hold_is_little(self) -> None:
        """It is lost with its process."""
        for process in self.processes:
            free: dict[Balance, int] = {}
            for purse in process.ledger._open:
                for balance in purse.balances:
                    free[balance] = free.get(balance, 0) + purse.free
            for balance, amount in free.items():
                assert 0 <= amount <= balance.in_purses <= balance.part // 2

    def _use(self, reservation: Reservation, tokens: int) -> None:
        for balance in reservation.of_tokens.balances:
            start = balance.window.starts_at
            self.used[start] = self.used.get(start, 0) + tokens


TestLedgers = Ledgers.TestCase
TestLedgers.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
