"""Finds out what versions would take: their headers are read in a thread, once."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from inference.protocol import EngineParameters, ModelSpec
from inference.supervisor.events import Weighed
from inference.supervisor.fit import Footprint, Weight, options
from registry import gguf

log = structlog.get_logger(module="supervisor")

_PATIENCE_SECONDS = 5.0
"""A header takes 10–30 ms; a network drive that does not answer must not keep a version in line for ever."""


class Scales:
    """Belongs to the running loop."""

    def __init__(
        self,
        post: Callable[[Weighed], None],
        *,
        parameters: Callable[[ModelSpec], EngineParameters],
        footprint: Callable[[ModelSpec], Footprint | None],
    ) -> None:
        """``parameters``: what a version is to compute with; ``footprint``: what its last worker took."""
        self._post = post
        self._parameters = parameters
        self._footprint = footprint
        self._weights: dict[tuple[str, ...], Weight] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def weigh(self, spec: ModelSpec) -> None:
        """Post what it would take: now if its files are known, else soon."""
        weight = self._weights.get(spec.files)
        if weight is not None:
            self._tell(spec, weight)
            return
        task = asyncio.get_running_loop().create_task(self._read(spec))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def again(self, spec: ModelSpec) -> None:
        """More is known of it than when it was weighed."""
        if (weight := self._weights.get(spec.files)) is not None:
            self._tell(spec, weight)

    async def _read(self, spec: ModelSpec) -> None:
        weight = Weight(files_bytes=0)
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                weight = await asyncio.to_thread(weight_of, spec.files)
        except TimeoutError:
            log.warning("A model could not be weighed: its files can't be read in time", model_id=spec.model)
        if weight.shape.layers:  # else it may be another time
            self._weights[spec.files] = weight
        self._tell(spec, weight)

    def _tell(self, spec: ModelSpec, weight: Weight) -> None:
        ways = options(weight, self._parameters(spec), explicit=spec.parameters, footprint=self._footprint(spec))
        self._post(Weighed(spec, ways))


def weight_of(files: tuple[str, ...]) -> Weight:
    """As the files say. What can't be read weighs nothing: the worker will say what is wrong with it."""
    size = sum(_size(Path(file)) for file in files)
    try:
        header = gguf.read_header(Path(files[0]))
    except (gguf.GgufError, IndexError):
        return Weight(files_bytes=size)
    return Weight(
        files_bytes=size,
        context_tokens=header.context_length or 0,
        shape=header.shape,
        embeds_only=gguf.capabilities(header) == ("embedding",),
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
