"""What SQL and the workers of this machine tell each other of how they compute fastest. Runs in the store's thread."""

from collections.abc import Sequence

import msgspec

from inference.specs import engine_parameters
from inference.supervisor.tunings import Tuning, machine
from registry import tuning


def tunings_read() -> list[Tuning]:
    return [
        Tuning(
            version_pk=row.version_pk,
            under=engine_parameters(row.under),
            parameters=engine_parameters(row.parameters),
        )
        for row in tuning.tunings_load(machine=machine())
    ]


def tunings_write(measured: Sequence[Tuning]) -> None:
    for each in measured:
        tuning.tuning_record(
            version_pk=each.version_pk,
            machine=machine(),
            under=msgspec.to_builtins(each.under),
            parameters=msgspec.to_builtins(each.parameters),
            measured=[msgspec.to_builtins(figures) for figures in each.measured],
        )
