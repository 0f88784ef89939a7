"""How long loads took: written and read by the supervisors of the nodes."""

from typing import Any

import msgspec
from django.db import connection

from registry.models import LoadTime


class Taken(msgspec.Struct, frozen=True):
    """By the last loads of a version on a node, from one tier."""

    version_pk: int
    tier: str
    samples: list[dict[str, Any]]
    """Seconds by stage, as inference.protocol.LoadSeconds, the newest last."""


def load_times_load(*, node: str) -> list[Taken]:
    rows = LoadTime.objects.filter(node__name=node)
    return [Taken(*values) for values in rows.values_list("version_id", "tier", "samples")]


def load_time_record(*, node: str, taken: Taken) -> None:
    """Write down what was seen. A node or version that is gone is passed over: a record must not stop the recorder."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO registry_loadtime (node_id, version_id, tier, samples, measured_at)"
            " SELECT n.id, v.id, %s, %s::jsonb, now()"
            " FROM registry_node n, registry_version v WHERE n.name = %s AND v.id = %s"
            " ON CONFLICT (node_id, version_id, tier) DO UPDATE SET (samples, measured_at)"
            " = (EXCLUDED.samples, EXCLUDED.measured_at)",
            [taken.tier, msgspec.json.encode(taken.samples).decode(), node, taken.version_pk],
        )
