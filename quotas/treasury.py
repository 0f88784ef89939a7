"""The windows of limits in SQL: leased in parts, given back, told of, and reclaimed of who died.

Each call is one statement and its own transaction; only a lease that opens its window takes a few, each harmless by
itself. The sum of all leases of a window is its ``taken``, which a lease can't raise above the limit: see
:data:`_LEASE`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from django.db import connection
from django.db.backends.utils import CursorWrapper

from quotas.ledger import Account, Ask, Unit
from quotas.windows import Period
from quotas.windows import Window as Span


class Leased(msgspec.Struct, frozen=True):
    """SQL's answer to an :class:`Ask`."""

    amount: int
    """Granted now. Less than was needed: there is no more."""
    left: int
    """What nobody has leased yet."""
    lease: int
    """Where it is written."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """How a window stands, by what all gateways have told."""

    account: str
    window: Span
    used: int
    """By requests that are over."""
    reserved: int
    """Promised to requests that run."""
    gateways: int
    """That hold a lease of it."""


class Holding(msgspec.Struct, frozen=True):
    """What a process holds of a lease."""

    granted: int
    spent: int
    reserved: int


_OPEN = """
INSERT INTO quotas_window (account, unit, period, starts_at, ends_at, taken, earlier, level)
VALUES (%(account)s, %(unit)s, %(period)s, %(starts_at)s, %(ends_at)s, %(earlier)s, %(earlier)s, 0)
ON CONFLICT (account, starts_at) DO NOTHING
"""

# A window is opened by the first request that a limit holds for. Where others came before it in this window, nothing
# was limited then: what they used, as far as it was counted, is a part of the window all the same.
_USED = {
    "model": "model = (SELECT name FROM registry_model WHERE id = %(whose)s::bigint)",
    "tenant": "tenant = (SELECT name FROM quotas_tenant WHERE id = %(whose)s::bigint)",
    "key": "api_key IN (SELECT id FROM quotas_apikey WHERE line = %(whose)s::uuid)",
}
_EARLIER = """
SELECT coalesce(sum(prompt_tokens + completion_tokens), 0), coalesce(sum(requests), 0) FROM quotas_usage
WHERE period = 'hour' AND starts_at >= %(starts_at)s AND starts_at < %(ends_at)s AND
"""

# Of many models at once; what was not used is 0.
_UNOPENED = """
SELECT asked.account, coalesce(sum(prompt_tokens + completion_tokens), 0), coalesce(sum(requests), 0)
FROM unnest(%(accounts)s::text[], %(models)s::bigint[], %(starts)s::timestamptz[], %(ends)s::timestamptz[])
    AS asked (account, model, starts_at, ends_at)
JOIN registry_model ON registry_model.id = asked.model
LEFT JOIN quotas_usage ON quotas_usage.model = registry_model.name AND period = 'hour'
    AND quotas_usage.starts_at >= asked.starts_at AND quotas_usage.starts_at < asked.ends_at
GROUP BY asked.account
"""

# A part is no more than a quarter of what each process could still have, so that near the end it is shared evenly.
_LEASE = """
WITH old AS (
    SELECT id, %(limit)s - taken AS left_over FROM quotas_window
    WHERE account = %(account)s AND starts_at = %(starts_at)s FOR UPDATE
), part AS (
    SELECT id, greatest(0, least(
        left_over,
        greatest(%(need)s, least(%(part)s, left_over / (4 * greatest(1, (
            SELECT count(*) FROM quotas_lease WHERE window_id = old.id
        )))))
    )) AS amount, left_over FROM old
), taken AS (
    UPDATE quotas_window SET taken = taken + part.amount FROM part WHERE quotas_window.id = part.id
    RETURNING quotas_window.id
), lease AS (
    INSERT INTO quotas_lease (window_id, gateway, granted, spent, reserved, told_at)
    SELECT id, %(gateway)s, amount, 0, 0, now() FROM part
    ON CONFLICT (gateway, window_id) DO UPDATE SET granted = quotas_lease.granted + excluded.granted
    RETURNING id
)
SELECT part.amount, greatest(0, part.left_over - part.amount), lease.id FROM part, lease, taken
"""

# What a process says it holds counts, not what it gives back: said twice, after a commit whose answer was lost, it is
# the same. Windows are locked in the order of their numbers, so that two who tell never wait for each other.
_TELL = """
WITH told AS (
    SELECT told.*, quotas_window.id AS window_id, quotas_lease.granted - told.granted AS back
    FROM unnest(%(leases)s::bigint[], %(granted)s::bigint[], %(spent)s::bigint[], %(reserved)s::bigint[])
        AS told (lease, granted, spent, reserved)
    JOIN quotas_lease ON quotas_lease.id = told.lease
    JOIN quotas_window ON quotas_window.id = quotas_lease.window_id
    ORDER BY quotas_window.id FOR UPDATE OF quotas_window, quotas_lease
), leases AS (
    UPDATE quotas_lease SET granted = told.granted, spent = told.spent, reserved = told.reserved, told_at = now()
    FROM told WHERE quotas_lease.id = told.lease
), backs AS (
    SELECT window_id, sum(back) AS back FROM told GROUP BY window_id
), windows AS (
    UPDATE quotas_window SET taken = taken - backs.back FROM backs WHERE quotas_window.id = backs.window_id
    RETURNING quotas_window.id, quotas_window.taken
)
SELECT told.lease, windows.taken FROM told JOIN windows ON windows.id = told.window_id
"""

# What nothing will change any more goes from the lease into its window. Done twice, it finds no lease.
_CLOSE = """
WITH windows AS (
    SELECT id FROM quotas_window
    WHERE id IN (SELECT window_id FROM quotas_lease WHERE id = ANY(%(leases)s)) ORDER BY id FOR UPDATE
), closed AS (
    DELETE FROM quotas_lease USING windows
    WHERE quotas_lease.id = ANY(%(leases)s) AND window_id = windows.id RETURNING window_id, granted
), sums AS (
    SELECT window_id, sum(granted) AS spent FROM closed GROUP BY window_id
)
UPDATE quotas_window SET earlier = earlier + sums.spent FROM sums WHERE quotas_window.id = sums.window_id
"""

_READ = """
SELECT account, starts_at, ends_at, earlier + coalesce(sum(spent), 0), coalesce(sum(reserved), 0),
    count(quotas_lease.id)
FROM quotas_window LEFT JOIN quotas_lease ON quotas_lease.window_id = quotas_window.id
WHERE ends_at > %(now)s AND starts_at <= %(now)s AND account LIKE 'model:%%'
GROUP BY quotas_window.id
"""

# Of each lease of a process that is dead: what it had not charged goes back, the rest counts as used.
_RECLAIM = """
WITH charges AS (
    SELECT * FROM unnest(%(leases)s::bigint[], %(charged)s::bigint[]) AS charge (lease, charged)
), windows AS (
    SELECT id FROM quotas_window
    WHERE id IN (SELECT window_id FROM quotas_lease WHERE gateway = %(gateway)s) ORDER BY id FOR UPDATE
), dead AS (
    DELETE FROM quotas_lease USING windows
    WHERE gateway = %(gateway)s AND window_id = windows.id RETURNING quotas_lease.id, window_id, granted
), counted AS (
    SELECT window_id, granted, least(granted, coalesce(charged, 0)) AS charged
    FROM dead LEFT JOIN charges ON charges.lease = dead.id
), sums AS (
    SELECT window_id, sum(granted - charged) AS back, sum(charged) AS spent FROM counted GROUP BY window_id
), given_back AS (
    UPDATE quotas_window SET taken = taken - back, earlier = earlier + spent
    FROM sums WHERE quotas_window.id = sums.window_id
)
SELECT coalesce(sum(back), 0) FROM sums
"""


def lease(*, gateway: str, ask: Ask) -> Leased:
    """Lease what is needed or a part, whichever is more, or what is left where that is less."""
    balance = ask.balance
    account, window = balance.account, balance.window
    values = {
        "gateway": gateway,
        "account": account.key,
        "unit": account.unit.value,
        "period": account.period.value,
        "starts_at": _moment(window.starts_at),
        "ends_at": _moment(window.ends_at),
        "limit": account.limit,
        "need": ask.need,
        "part": balance.part,
    }
    with connection.cursor() as cursor:
        cursor.execute(_LEASE, values)
        row = cursor.fetchone()
        if row is None:
            cursor.execute(_OPEN, values | {"earlier": _earlier(cursor, account, values)})
            cursor.execute(_LEASE, values)
            row = cursor.fetchone()
    amount, left, number = row
    return Leased(amount=amount, left=left, lease=number)


def tell(leases: Mapping[int, Holding]) -> dict[int, int]:
    """How a process stands with its leases. What it no longer holds of them is given back.

    Returns:
        by lease, what is now taken of its window by all.
    """
    if not leases:
        return {}
    told = leases.values()
    numbers = {
        "leases": list(leases),
        "granted": [each.granted for each in told],
        "spent": [each.spent for each in told],
        "reserved": [each.reserved for each in told],
    }
    with connection.cursor() as cursor:
        cursor.execute(_TELL, numbers)
        return dict(cursor.fetchall())


def close(leases: Collection[int]) -> None:
    """Nothing will change these any more, and all of them was told: what they spent is kept by their windows."""
    if leases:
        with connection.cursor() as cursor:
            cursor.execute(_CLOSE, {"leases": list(leases)})


def readings(now: float) -> list[Reading]:
    """How the windows of models' limits that hold now stand."""
    with connection.cursor() as cursor:
        cursor.execute(_READ, {"now": datetime.fromtimestamp(now, UTC)})
        rows = cursor.fetchall()
    return [
        Reading(
            account=account,
            window=Span(int(starts_at.timestamp()), int(ends_at.timestamp())),
            used=int(used),
            reserved=int(reserved),
            gateways=gateways,
        )
        for account, starts_at, ends_at, used, reserved, gateways in rows
    ]


def unopened(windows: Sequence[tuple[Account, Span]]) -> dict[str, int]:
    """What was used of models' windows that no request has opened yet: so much is gone of them when one does.

    Returns:
        by account, in its unit.
    """
    if not windows:
        return {}
    values: dict[str, Any] = {
        "accounts": [account.key for account, _ in windows],
        "models": [int(_subject(account)[1]) for account, _ in windows],
        "starts": [_moment(span.starts_at) for _, span in windows],
        "ends": [_moment(span.ends_at) for _, span in windows],
    }
    with connection.cursor() as cursor:
        cursor.execute(_UNOPENED, values)
        used = {key: {Unit.TOKENS: int(tokens), Unit.REQUESTS: int(requests)} for key, tokens, requests in cursor}
    return {account.key: used[account.key][account.unit] for account, _ in windows if account.key in used}


def reclaim(*, gateway: str, charges: Iterable[tuple[int, int]]) -> int:
    """Take back what a dead process held and had neither spent nor promised. It may be done twice.

    Args:
        charges: by lease, what it had.

    Returns:
        How much went back.
    """
    listed = list(charges)
    leases, charged = [number for number, _ in listed], [amount for _, amount in listed]
    with connection.cursor() as cursor:
        cursor.execute(_RECLAIM, {"gateway": gateway, "leases": leases, "charged": charged})
        (amount,) = cursor.fetchone()
    return int(amount)


def level_claim(*, account: str, starts_at: int, level: int) -> bool:
    """Whether nobody has told of this level of a window before: who claims it does."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE quotas_window SET level = %(level)s "
            "WHERE account = %(account)s AND starts_at = %(starts_at)s AND level < %(level)s",
            {"account": account, "starts_at": _moment(starts_at), "level": level},
        )
        return bool(cursor.rowcount)


def _earlier(cursor: CursorWrapper, account: Account, values: Mapping[str, Any]) -> int:
    subject, whose = _subject(account)
    if account.period is Period.MINUTE:  # usage is counted by the hour
        return 0
    cursor.execute(f"{_EARLIER} {_USED[subject]}", {**values, "whose": whose})
    tokens, requests = cursor.fetchone()
    return int(tokens if account.unit is Unit.TOKENS else requests)


def _subject(account: Account) -> tuple[str, str]:
    """``model``, ``tenant`` or ``key``, and which."""
    subject, _, whose = account.key.partition("/")[0].partition(":")
    return subject, whose


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
