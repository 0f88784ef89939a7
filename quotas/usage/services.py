"""Writes of usage: what gateways have counted. When it is old, :mod:`quotas.usage.retention` adds it up."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django.db import connection, transaction

from quotas.access.services import keys_used
from quotas.usage.counts import COUNTED, UsageCounts, UsageKey

COLUMNS = ", ".join(COUNTED)
ADDED = ", ".join(f"{name} = quotas_usage.{name} + excluded.{name}" for name in COUNTED)
"""What becomes of a row that is there already."""

# The claim of a batch. A process sends its batches in order and one after the other, so whatever is not newer than the
# last one was written before. (Not “the next one”: a batch that can't be written is passed over.)
_CLAIM = """
INSERT INTO quotas_gatewaylife (name, batch, told_at) VALUES (%(gateway)s, %(batch)s, now())
ON CONFLICT (name) DO UPDATE SET batch = excluded.batch, told_at = now()
WHERE quotas_gatewaylife.batch < excluded.batch
"""

# In one order, so that gateways that write the same rows never wait for each other in a circle.
_ADD = f"""
INSERT INTO quotas_usage (period, starts_at, tenant, api_key, model, {COLUMNS})
SELECT 'hour', * FROM unnest(
    %(starts_at)s::timestamptz[], %(tenant)s::text[], %(api_key)s::bigint[], %(model)s::text[], %(requests)s::bigint[],
    %(prompt_tokens)s::bigint[], %(cached_tokens)s::bigint[], %(completion_tokens)s::bigint[], %(seconds)s::float8[],
    %(errors)s::bigint[], %(refused)s::bigint[]
) AS counted (starts_at, tenant, api_key, model) ORDER BY starts_at, tenant, model, api_key
ON CONFLICT (starts_at, period, tenant, model, api_key) DO UPDATE SET {ADDED}
"""


def usage_record(*, gateway: str, batch: int, counts: Mapping[UsageKey, UsageCounts]) -> bool:
    """Add what a gateway has counted. A batch that was written is not written again.

    Args:
        gateway: the name of one process's life, at most 32 characters.
        batch: 1, 2, 3, … The same number means the same counts.

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
    # By itself: should it fail, the next request of these keys tells; what they used is written all the same.
    now = datetime.now(UTC)
    keys_used(used_at={key.key_pk: now for key, _ in rows if key.key_pk is not None})
    return True
