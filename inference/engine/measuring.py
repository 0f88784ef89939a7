"""When the engine measures how it computes fastest (:mod:`inference.engine.tuning`): while nobody asks for anything."""

import threading
from collections.abc import Callable

import structlog

from inference.engine.llama import LlamaError, Model
from inference.engine.sequences import Limits
from inference.engine.tuning import measure
from inference.protocol import Tuned

log = structlog.get_logger(module="engine")

_ATTEMPTS = 5
"""So many may be given up because somebody asked for something."""


class Measuring:
    """Owned by the engine's thread, but for :meth:`interrupt`."""

    def __init__(
        self, model: Model, limits: Limits, threads: int, on_tuned: Callable[[Tuned], None] | None = None
    ) -> None:
        """``on_tuned`` is told what was found. None: nothing is measured."""
        self._model = model
        self._limits = limits
        self._threads = threads
        self._on_tuned = on_tuned
        self._attempts = 0
        self._interrupted = threading.Event()

    @property
    def wanted(self) -> bool:
        return self._on_tuned is not None

    def interrupt(self) -> None:
        """There is something to do for the engine: a measurement that is under way ends at once."""
        self._interrupted.set()

    def run(self, idle: Callable[[], bool]) -> None:
        """Measure, unless somebody comes meanwhile. It takes effect with the next load."""
        assert self._on_tuned is not None
        self._interrupted.clear()
        if not idle():  # it came between the caller's look and the line above
            return
        self._attempts += 1
        log.info("Measuring how to compute fastest here")
        try:
            tuned = measure(self._model, self._limits, self._threads, self._interrupted.is_set)
        except LlamaError as fault:
            log.warning("Nothing was measured", reason=str(fault))
            self._on_tuned = None
            return
        if tuned is not None and tuned.measured:
            self._on_tuned(tuned)
        if tuned is not None or self._attempts == _ATTEMPTS:
            self._on_tuned = None
