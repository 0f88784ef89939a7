"""The windows of limits in SQL: leased in parts, given back, told of, and reclaimed of who died.

Each call is one statement and its own transaction. The sum of all leases of a window is its ``taken``, which a lease
can't raise above the limit: see :data:`_LEASE`.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import msgspec
from django.db import connection

from quotas.ledger import Ask


class Leased(msgspec.Struct, frozen=True):
    """SQL's answer to an :class:`Ask`."""

    amount: int
    """Granted now. Less than was needed: there is no more."""
    left: int
    """What nobody has leased yet."""
    lease: int
    """Where it is written."""


class Holding(msgspec.Struct, frozen=True):
    """What a process holds of a lease."""

    granted: int
    spent: int
    reserved: int


_OPEN = """
INSERT INTO quotas_window (account, unit, period, starts_at, ends_at, taken)
VALUES (%(account)s, %(unit)s, %(period)s, %(starts_at)s, %(ends_at)s, 0)
ON CONFLICT (account, starts_at) DO NOTHING
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
    SELECT told.*, quotas_window.id AS window, quotas_lease.granted - told.granted AS back
    FROM unnest(%(leases)s::bigint[], %(granted)s::bigint[], %(spent)s::bigint[], %(reserved)s::bigint[])
        AS told (lease, granted, spent, reserved)
    JOIN quotas_lease ON quotas_lease.id = told.lease
    JOIN quotas_window ON quotas_window.id = quotas_lease.window_id
    ORDER BY quotas_window.id FOR UPDATE OF quotas_window, quotas_lease
), leases AS (
    UPDATE quotas_lease SET granted = told.granted, spent = told.spent, reserved = told.reserved, told_at = now()
    FROM told WHERE quotas_lease.id = told.lease
)
UPDATE quotas_window SET taken = taken - told.back FROM told WHERE quotas_window.id = told.window AND told.back <> 0
"""

# Of each lease of a process that is dead: what it had not charged goes back, the rest counts as spent.
_RECLAIM = """
WITH charges AS (
    SELECT * FROM unnest(%(leases)s::bigint[], %(charged)s::bigint[]) AS charge (lease, charged)
), dead AS (
    SELECT quotas_lease.id, window_id, granted, least(granted, coalesce(charged, 0)) AS charged
    FROM quotas_lease LEFT JOIN charges ON charges.lease = quotas_lease.id
    WHERE gateway = %(gateway)s FOR UPDATE OF quotas_lease
), settled AS (
    UPDATE quotas_lease SET granted = dead.charged, spent = dead.charged, reserved = 0, told_at = now()
    FROM dead WHERE quotas_lease.id = dead.id
), given_back AS (
    UPDATE quotas_window SET taken = taken - (dead.granted - dead.charged) FROM dead
    WHERE quotas_window.id = dead.window_id
)
SELECT coalesce(sum(granted - charged), 0) FROM dead
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
            cursor.execute(_OPEN, values)
            cursor.execute(_LEASE, values)
            row = cursor.fetchone()
    amount, left, number = row
    return Leased(amount=amount, left=left, lease=number)


def tell(leases: Mapping[int, Holding]) -> None:
    """How a process stands with its leases. What it no longer holds of them is given back."""
    if leases:
        told = leases.values()
        numbers = {
            "leases": list(leases),
            "granted": [each.granted for each in told],
            "spent": [each.spent for each in told],
            "reserved": [each.reserved for each in told],
        }
        with connection.cursor() as cursor:
            cursor.execute(_TELL, numbers)


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


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
