"""The memory that workers take, seen from outside: what the next load of the same is reckoned with."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from msgspec.structs import replace

from inference.protocol import EngineParameters, ModelSpec
from inference.supervisor.fit import Footprint, alike

LOOK_SECONDS = 5.0
NEWS_PART = 0.05
"""A peak is written down when it is higher by this part."""

_ANONYMOUS = (b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:")
"""What a process shares counts in parts. Pages of files are not among them: weights are counted as they lie on disk,
and libraries are everybody's."""


class _Watched(msgspec.Struct, kw_only=True):
    spec: ModelSpec
    parameters: EngineParameters
    pid: int
    cached: Callable[[], int]


class Footprints:
    """Belongs to the running loop."""

    def __init__(
        self, *, learned: Callable[[ModelSpec], None], record: Callable[[Mapping[int, Footprint]], None]
    ) -> None:
        """``learned`` is called when more is known of a version; ``record`` gets what is to be written down."""
        self._learned = learned
        self._record = record
        self._known: dict[int, Footprint] = {}
        self._watched: dict[int, _Watched] = {}

    def read(self, written: Mapping[int, Footprint]) -> None:
        """As SQL has them; what was seen since knows better."""
        self._known = {**written, **self._known}

    def of(self, spec: ModelSpec) -> Footprint | None:
        return self._known.get(spec.version_pk)

    async def ready(
        self, worker: int, pid: int, spec: ModelSpec, parameters: EngineParameters, cached: Callable[[], int]
    ) -> None:
        """A worker has become ready, and is watched from now on.

        Args:
            parameters: what it computes with.
            cached: bytes that its cache holds in RAM, which has a budget of its own.
        """
        self._watched[worker] = _Watched(spec=spec, parameters=parameters, pid=pid, cached=cached)
        size = await self._size(worker)
        if size is not None:
            self._learn(
                spec, Footprint(under=parameters, ready_bytes=size, peak_bytes=self._peak(spec, parameters, size))
            )

    def ended(self, worker: int) -> None:
        self._watched.pop(worker, None)

    async def run(self) -> None:
        """See how those that work grow, for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        for worker in list(self._watched):
            await self._follow(worker)

    async def _follow(self, worker: int) -> None:
        size = await self._size(worker)
        watched = self._watched.get(worker)
        known = self.of(watched.spec) if watched is not None else None
        if size is None or watched is None or known is None or not alike(known.under, watched.parameters):
            return
        if size > known.peak_bytes * (1 + NEWS_PART):
            self._learn(watched.spec, replace(known, peak_bytes=size))

    async def _size(self, worker: int) -> int | None:
        """What it takes now beside its cache; None: it is gone, or the kernel does not say."""
        watched = self._watched.get(worker)
        if watched is None:
            return None
        size = await asyncio.to_thread(anonymous_bytes, watched.pid)
        return None if size is None else max(0, size - watched.cached())

    def _peak(self, spec: ModelSpec, parameters: EngineParameters, size: int) -> int:
        """Of all workers that computed with the same: one that just started has not had its long requests yet."""
        known = self.of(spec)
        return max(size, known.peak_bytes) if known is not None and alike(known.under, parameters) else size

    def _learn(self, spec: ModelSpec, footprint: Footprint) -> None:
        self._known[spec.version_pk] = footprint
        self._record({spec.version_pk: footprint})
        self._learned(spec)


def anonymous_bytes(pid: int) -> int | None:
    """Of a process; None where it is gone or the kernel does not say (``smaps_rollup`` is younger than Linux 4.14, and
    has these lines since 5.4)."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines()
    except OSError:
        return None
    sizes = [int(line.split()[1]) for line in lines if line.startswith(_ANONYMOUS)]
    return sum(sizes) * 1024 if sizes else None
