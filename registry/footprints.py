"""What workers were seen to take of a node's memory: written and read by its supervisor, shown to operators."""

import msgspec
from django.db import connection

from registry.models import Footprint
from registry.parameters import Parameters


class Taken(msgspec.Struct, frozen=True):
    """By the last worker of a version on a node."""

    version_pk: int
    under: Parameters
    """All that it computed with."""
    ready_bytes: int
    peak_bytes: int


def footprints_load(*, node: str) -> list[Taken]:
    rows = Footprint.objects.filter(node__name=node)
    return [Taken(*values) for values in rows.values_list("version_id", "under", "ready_bytes", "peak_bytes")]


def footprint_record(*, node: str, taken: Taken) -> None:
    """Write down what was seen. A node or version that is gone is passed over: a record must not stop the recorder."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO registry_footprint AS f (node_id, version_id, under, ready_bytes, peak_bytes, measured_at)"
            " SELECT n.id, v.id, %s::jsonb, %s, %s, now()"
            " FROM registry_node n, registry_version v WHERE n.name = %s AND v.id = %s"
            " ON CONFLICT (node_id, version_id) DO UPDATE SET (under, ready_bytes, peak_bytes, measured_at)"
            " = (EXCLUDED.under, EXCLUDED.ready_bytes, EXCLUDED.peak_bytes, EXCLUDED.measured_at)",
            [msgspec.json.encode(taken.under).decode(), taken.ready_bytes, taken.peak_bytes, node, taken.version_pk],
        )
