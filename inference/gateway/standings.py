"""How models stand with their soft limits.

What is used of a limit is told to SQL, and what all gateways together use is read from it, every second; between two
readings a lease's answer tells at least how much must be gone. So a level is reached within a part of the limit or two
seconds, by every gateway, and nothing of this is done for a request but to look up the result.
"""

from collections.abc import Callable, Iterable, Mapping

import msgspec

from quotas.ledger import Account, Balance, Unit
from quotas.limits import NO_LIMITS, ModelLimits
from quotas.modes import Level, Mode, level_after, mode_of, pace, percent_of, slack
from quotas.treasury import Reading
from quotas.windows import Window


class Pace(msgspec.Struct, frozen=True):
    """A limit that is to last for its window."""

    account: str
    limit: str
    """As the model's owner calls it."""
    tokens: bool
    """It is of tokens, not of requests."""
    per_second: float
    """By this gateway: an even part of what all may use."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Of a model, between two changes of it."""

    mode: Mode = Mode.NORMAL
    level: Level = Level.NONE
    percent: float = 0.0
    """Used and promised of the limit that is nearest its end."""
    paces: tuple[Pace, ...] = ()
    until: float = float("inf")
    """When the first of the windows that it tells of ends, in seconds since the epoch."""

    @property
    def slowed(self) -> bool:
        """Throttled, or at its end."""
        return self.mode is Mode.THROTTLED or self.mode is Mode.HARD_LIMIT


NORMAL = Standing()


class Reached(msgspec.Struct, frozen=True, kw_only=True):
    """A limit's level that this process has just seen reached; who claims it in SQL says so."""

    model: str
    account: Account
    window: Window
    level: Level
    percent: float


class _Seen(msgspec.Struct):
    """Of one account in one window."""

    account: Account
    window: Window
    gateways: int = 1
    """That have leased of it."""
    level: Level = Level.NONE
    percent: float = 0.0


class Standings:
    """Owned by the event loop."""

    def __init__(self, reached: Callable[[Reached], None]) -> None:
        self._reached = reached
        self._limits: Mapping[str, ModelLimits] = {}
        self._models: dict[str, str] = {}
        """Whose an account is, by its key."""
        self._seen: dict[str, dict[str, _Seen]] = {}
        """By model and account."""
        self._standings: dict[str, Standing] = {}
        self.readings: Mapping[str, Reading] = {}
        """By the account's key, of the windows of now: what all gateways show."""

    def retune(self, limits: Mapping[str, ModelLimits]) -> None:
        """These are all limits of models that there are now."""
        self._limits = limits
        self._models = {account.key: model for model, each in limits.items() for account in each.accounts}
        accounts = {account.key: account for each in limits.values() for account in each.accounts}
        for seen in self._seen.values():
            for key, each in list(seen.items()):
                if accounts.get(key) != each.account:
                    del seen[key]
        self._standings = {}
        self.read(self.readings.values())

    @property
    def limited(self) -> bool:
        """Any model is."""
        return bool(self._models)

    def read(self, readings: Iterable[Reading]) -> None:
        """All windows of now."""
        self.readings = {reading.account: reading for reading in readings}
        for reading in self.readings.values():
            if model := self._models.get(reading.account):
                seen = self._of(model, reading.account, reading.window)
                seen.gateways = max(1, reading.gateways)
                self._see(model, seen, percent_of(seen.account.limit, reading.used + reading.reserved))

    def leased(self, balance: Balance) -> None:
        """SQL has just said what is left of it."""
        model = self._models.get(balance.account.key)
        if model is None:
            return
        seen = self._of(model, balance.account.key, balance.window)
        # What others hold and have not used yet is no more than two parts each.
        others = 2 * balance.part * (seen.gateways - 1)
        limit = seen.account.limit
        percent = percent_of(limit, limit - balance.left - balance.available - others)
        if percent > seen.percent:
            self._see(model, seen, percent)

    def of(self, model: str, now: float) -> Standing:
        standing = self._standings.get(model, NORMAL)
        if now >= standing.until:
            self._seen[model] = {key: seen for key, seen in self._seen[model].items() if seen.window.holds(now)}
            standing = self._rebuild(model)
        return standing

    def _of(self, model: str, key: str, window: Window) -> _Seen:
        of_model = self._seen.setdefault(model, {})
        seen = of_model.get(key)
        if seen is None or seen.window != window:
            (account,) = (account for account in self._limits[model].accounts if account.key == key)
            seen = of_model[key] = _Seen(account, window)
        return seen

    def _see(self, model: str, seen: _Seen, percent: float) -> None:
        before, seen.percent = seen.level, percent
        seen.level = level_after(before, percent, self._limits[model].soft_limits, slack(seen.gateways))
        if seen.level > before:
            self._reached(
                Reached(model=model, account=seen.account, window=seen.window, level=seen.level, percent=percent)
            )
        self._rebuild(model)

    def _rebuild(self, model: str) -> Standing:
        seen = self._seen.get(model, {}).values()
        throttling = self._limits.get(model, NO_LIMITS).throttling_enabled
        level = max((each.level for each in seen), default=Level.NONE)
        standing = self._standings[model] = Standing(
            mode=mode_of(level, throttling_enabled=throttling, emergency=False),
            level=level,
            percent=max((each.percent for each in seen), default=0.0),
            paces=tuple(_paces(seen)) if throttling else (),
            until=min((each.window.ends_at for each in seen), default=float("inf")),
        )
        return standing


def _paces(seen: Iterable[_Seen]) -> Iterable[Pace]:
    for each in seen:
        seconds = each.window.ends_at - each.window.starts_at
        per_second = pace(each.account.limit, seconds, each.level)
        if per_second is not None:
            account = each.account
            yield Pace(account.key, account.name, account.unit is Unit.TOKENS, per_second / each.gateways)
