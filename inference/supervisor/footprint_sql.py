"""What SQL and this node tell each other of the memory that workers took. Runs in the store's thread."""

from collections.abc import Mapping

import msgspec

from inference.specs import engine_parameters
from inference.supervisor.fit import Footprint
from registry import footprints


def footprints_read(node: str) -> dict[int, Footprint]:
    return {
        row.version_pk: Footprint(
            under=engine_parameters(row.under), ready_bytes=row.ready_bytes, peak_bytes=row.peak_bytes
        )
        for row in footprints.footprints_load(node=node)
    }


def footprints_write(node: str, seen: Mapping[int, Footprint]) -> None:
    for version_pk, each in seen.items():
        taken = footprints.Taken(version_pk, msgspec.to_builtins(each.under), each.ready_bytes, each.peak_bytes)
        footprints.footprint_record(node=node, taken=taken)
