"""What was measured to be fastest on this machine, from worker to SQL and back to the next worker."""

import functools
import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec

from inference.protocol import EngineParameters, Measured, ModelSpec, Tuned


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    version_pk: int
    under: EngineParameters
    """What an operator had set when it was measured: under anything else it says nothing."""
    parameters: EngineParameters
    measured: tuple[Measured, ...] = ()
    """Only until it is written."""


class Tunings:
    """What is known. Before SQL was read nobody knows that nothing is, so nothing is measured."""

    def __init__(self, record: Callable[[Tuning], None]) -> None:
        self._record = record
        self._known: dict[int, Tuning] | None = None

    def read(self, tunings: Sequence[Tuning]) -> None:
        """As SQL has them for this machine."""
        self._known = {tuning.version_pk: tuning for tuning in tunings}

    def parameters(self, spec: ModelSpec) -> EngineParameters:
        """What its next worker is to compute with."""
        tuning = self._of(spec)
        return spec.parameters if tuning is None else merged(spec.parameters, tuning.parameters)

    def reporter(self, spec: ModelSpec) -> Callable[[Tuned], None] | None:
        """Takes what its worker measures; None: there is no need to."""
        if self._known is None or self._of(spec) is not None:
            return None
        return functools.partial(self._measured, spec)

    def _measured(self, spec: ModelSpec, tuned: Tuned) -> None:
        tuning = Tuning(
            version_pk=spec.version_pk, under=spec.parameters, parameters=tuned.parameters, measured=tuned.measured
        )
        self._known = {**(self._known or {}), spec.version_pk: tuning}
        self._record(tuning)

    def _of(self, spec: ModelSpec) -> Tuning | None:
        tuning = (self._known or {}).get(spec.version_pk)
        return tuning if tuning is not None and tuning.under == spec.parameters else None


def merged(explicit: EngineParameters, tuned: EngineParameters) -> EngineParameters:
    """What an operator has set wins."""
    fields = EngineParameters.__struct_fields__
    chosen = {name: getattr(explicit, name) for name in fields if getattr(explicit, name) is not None}
    return msgspec.structs.replace(tuned, **chosen)


@functools.cache
def machine() -> str:
    """What the speed of computing depends on, in words: CPU, cores, and llama.cpp as its binding packs it."""
    cores = len(os.sched_getaffinity(0))
    return f"{_cpu()}, {cores} cores, llama-cpp-python {version('llama_cpp_python')}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
