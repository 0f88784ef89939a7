"""Writes of usage: what gateways have counted, and what becomes of it when it is old."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from django.db import connection, transaction

from quotas.access.services import keys_used
from quotas.usage.counts import COUNTED, UsageCounts, UsageKey

log = structlog.get_logger(module="quotas")

HOURS_KEPT = timedelta(days=90)
"""Older ones are added up to days."""
DAYS_KEPT = timedelta(days=730)
"""Older ones are added up to months, which are kept for good."""
WINDOWS_KEPT = timedelta(days=2)
"""Windows of limits go so long after their end; a request that still runs may hold a lease until then."""

_COLUMNS = ", ".join(COUNTED)
_SUMS = ", ".join(f"sum({name}) AS {name}" for name in COUNTED)
_ADDED = ", ".join(f"{name} = quotas_usage.{name} + excluded.{name}" for name in COUNTED)

# The claim of a batch: another one with this number was written before, or it comes out of turn.
_CLAIM = """
INSERT INTO quotas_gatewaylife (name, batch, told_at) VALUES (%(gateway)s, %(batch)s, now())
ON CONFLICT (name) DO UPDATE SET batch = excluded.batch, told_at = now()
WHERE quotas_gatewaylife.batch = excluded.batch - 1
"""

# In one order, so that gateways that write the same rows never wait for each other in a circle.
_ADD = f"""
INSERT INTO quotas_usage (period, starts_at, tenant, api_key, model, {_COLUMNS})
SELECT 'hour', * FROM unnest(
    %(starts_at)s::timestamptz[], %(tenant)s::text[], %(api_key)s::bigint[], %(model)s::text[], %(requests)s::bigint[],
    %(prompt_tokens)s::bigint[], %(cached_tokens)s::bigint[], %(completion_tokens)s::bigint[], %(seconds)s::float8[],
    %(errors)s::bigint[], %(refused)s::bigint[]
) AS counted (starts_at, tenant, api_key, model) ORDER BY starts_at, tenant, model, api_key
ON CONFLICT (starts_at, period, tenant, model, api_key) DO UPDATE SET {_ADDED}
"""

_ROLL_UP = f"""
WITH old AS (
    DELETE FROM quotas_usage WHERE period = %(fine)s AND starts_at < %(before)s RETURNING *
)
INSERT INTO quotas_usage (period, starts_at, tenant, api_key, model, {_COLUMNS})
SELECT %(coarse)s, date_trunc(%(coarse)s, starts_at, %(zone)s) AS start, tenant, api_key, model, {_SUMS} FROM old
GROUP BY start, tenant, api_key, model
ON CONFLICT (starts_at, period, tenant, model, api_key) DO UPDATE SET {_ADDED}
"""


def usage_record(*, gateway: str, batch: int, counts: Mapping[UsageKey, UsageCounts]) -> bool:
    """Add what a gateway has counted. A batch that was written is not written again.

    Args:
        gateway: the name of one process's life.
        batch: 1, 2, 3, …

    Returns:
        False: it was written before.
    """
    rows = list(counts.items())
    values: dict[str, Any] = {
        "starts_at": [datetime.fromtimestamp(key.hour, UTC) for key, _ in rows],
        "tenant": [key.tenant for key, _ in rows],
        "api_key": [key.key_pk for key, _ in rows],
        "model": [key.model for key, _ in rows],
    }
    for name in COUNTED:
        values[name] = [getattr(each, name) for _, each in rows]
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_CLAIM, {"gateway": gateway, "batch": batch})
        if not cursor.rowcount:
            return False
        cursor.execute(_ADD, values)
        now = datetime.now(UTC)
        keys_used(used_at={key.key_pk: now for key, _ in rows if key.key_pk is not None})
    return True


def usage_roll_up(*, now: datetime, zone: str) -> None:
    """Add up what is old: hours to days, days to months. The sums stay; doing it twice changes nothing.

    Args:
        zone: where days begin, as IANA names it.
    """
    for fine, coarse, kept in (("hour", "day", HOURS_KEPT), ("day", "month", DAYS_KEPT)):
        with connection.cursor() as cursor:
            # Whole ones only: a day whose hours were added up in part would be added up twice.
            cursor.execute(f"SELECT date_trunc('{coarse}', %s::timestamptz, %s)", [now - kept, zone])
            (before,) = cursor.fetchone()
            cursor.execute(_ROLL_UP, {"fine": fine, "coarse": coarse, "before": before, "zone": zone})
            if cursor.rowcount:
                log.info("Usage added up", from_=fine, to=coarse, rows=cursor.rowcount)


def windows_prune(*, now: datetime) -> None:
    """Forget windows that are long over, what was leased of them, and gateways that have long ended."""
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM quotas_lease USING quotas_window "
            "WHERE window_id = quotas_window.id AND quotas_window.ends_at < %(before)s",
            {"before": now - WINDOWS_KEPT},
        )
        cursor.execute("DELETE FROM quotas_window WHERE ends_at < %(before)s", {"before": now - WINDOWS_KEPT})
        cursor.execute("DELETE FROM quotas_gatewaylife WHERE told_at < %(before)s", {"before": now - WINDOWS_KEPT})
