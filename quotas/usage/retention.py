"""What becomes of what is old: usage is added up, windows of limits and gateways that are gone are forgotten.

Each of these is a service that may be called as often as one likes.
"""

from datetime import datetime, timedelta

import structlog
from django.db import connection, transaction

from quotas.usage.counts import COUNTED
from quotas.usage.services import ADDED, COLUMNS
from quotas.windows import Period

log = structlog.get_logger(module="quotas")

HOURS_KEPT = timedelta(days=90)
"""Usage by the hour that is older is added up to days."""
DAYS_KEPT = timedelta(days=730)
"""And days that are older to months, which are kept for good."""
WINDOWS_KEPT = timedelta(days=2)
"""After its end a window stays so long: requests that were admitted in it may still run and be charged to it."""
GATEWAYS_KEPT = timedelta(days=2)
"""A gateway that has written nothing for so long has ended, or has no batch on its way that could come twice."""

_STEPS = ((Period.HOUR, Period.DAY, HOURS_KEPT), (Period.DAY, Period.MONTH, DAYS_KEPT))

_BATCH = 1000

_SUMS = ", ".join(f"sum({name}) AS {name}" for name in COUNTED)

# Whole days and months only, so that they are seen in one piece. What is written of one afterwards is added to it.
_ROLL_UP = f"""
WITH old AS (
    DELETE FROM quotas_usage
    WHERE period = %(fine)s AND starts_at < date_trunc(%(coarse)s, %(before)s::timestamptz, %(zone)s) RETURNING *
)
INSERT INTO quotas_usage (period, starts_at, tenant, api_key, model, {COLUMNS})
SELECT %(coarse)s, date_trunc(%(coarse)s, starts_at, %(zone)s) AS start, tenant, api_key, model, {_SUMS}
FROM old GROUP BY start, tenant, api_key, model ORDER BY start, tenant, model, api_key
ON CONFLICT (starts_at, period, tenant, model, api_key) DO UPDATE SET {ADDED}
"""

# Windows that somebody holds just now come with the next call.
_PRUNE_WINDOWS = """
WITH old AS (
    SELECT id FROM quotas_window WHERE ends_at < %(before)s ORDER BY id LIMIT %(batch)s FOR UPDATE SKIP LOCKED
), leases AS (
    DELETE FROM quotas_lease USING old WHERE window_id = old.id
)
DELETE FROM quotas_window USING old WHERE quotas_window.id = old.id
"""


@transaction.atomic
def usage_roll_up(*, now: datetime, zone: str) -> None:
    """Add up what is old: hours to days, days to months. No sum changes by it.

    Args:
        zone: where days and months begin, as IANA names it.
    """
    with connection.cursor() as cursor:
        for fine, coarse, kept in _STEPS:
            cursor.execute(_ROLL_UP, {"fine": fine.value, "coarse": coarse.value, "before": now - kept, "zone": zone})
            if cursor.rowcount:
                log.info("Old usage added up", by=coarse.value, rows=cursor.rowcount)


def windows_prune(*, now: datetime) -> int:
    """Forget windows of limits that are long over, and what was leased of them. Returns how many windows."""
    pruned: int = 0
    with connection.cursor() as cursor:
        while True:
            cursor.execute(_PRUNE_WINDOWS, {"before": now - WINDOWS_KEPT, "batch": _BATCH})
            pruned += cursor.rowcount
            if cursor.rowcount < _BATCH:
                return pruned


def gateways_prune(*, now: datetime) -> int:
    """Forget gateways that have ended long ago. Returns how many."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM quotas_gatewaylife WHERE told_at < %s", [now - GATEWAYS_KEPT])
        return int(cursor.rowcount)
