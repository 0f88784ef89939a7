"""What the stub tells its supervisor, on standard output."""

import sys

import msgspec

from inference.protocol import (
    EngineParameters,
    Measured,
    Tuned,
    WorkerToSupervisor,
)

TUNED = Tuned(
    parameters=EngineParameters(threads=2),
    measured=(Measured(parameters=EngineParameters(), decode_seconds=0.02, mixed_seconds=0.2),),
)


def tell_supervisor(message: WorkerToSupervisor) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()
