"""What workers found to be fastest: written and read by supervisors, shown to operators, deleted to be found anew."""

from collections.abc import Sequence
from typing import Any

import msgspec
from django.db import connection
from django.db.models import F

from registry import listing
from registry.models import Tuning
from registry.parameters import Parameters


class Tuned(msgspec.Struct, frozen=True):
    """What the next load of a version on a machine goes by."""

    version_pk: int
    under: Parameters
    """The version's parameters when it was measured: under others nothing is known."""
    parameters: Parameters


def tunings_load(*, machine: str) -> list[Tuned]:
    """What holds on a machine for versions as they are set now."""
    rows = Tuning.objects.filter(machine=machine, under=F("version__parameters"))
    return [Tuned(*values) for values in rows.values_list("version_id", "under", "parameters")]


def tuning_record(
    *, version_pk: int, machine: str, under: Parameters, parameters: Parameters, measured: Sequence[Any]
) -> None:
    """Write down what was measured. A version that is gone is passed over: a record must not stop the recorder."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO registry_tuning AS t (version_id, machine, under, parameters, measured, measured_at)"
            " SELECT v.id, %s, %s::jsonb, %s::jsonb, %s::jsonb, now() FROM registry_version v WHERE v.id = %s"
            " ON CONFLICT (version_id, machine) DO UPDATE SET (under, parameters, measured, measured_at)"
            " = (EXCLUDED.under, EXCLUDED.parameters, EXCLUDED.measured, EXCLUDED.measured_at)",
            [machine, *(msgspec.json.encode(value).decode() for value in (under, parameters, measured)), version_pk],
        )


def tunings_forget(*, name: str, number: str) -> int:
    """Have a version measured again, by the next loads of it; returns on how many machines it was.

    Raises:
        ModelNotFound: with the nearest ids.
        NotFound: naming the versions there are.
    """
    version = listing.version_find(name=name, number=number)
    deleted, _ = Tuning.objects.filter(version=version).delete()
    return deleted
