"""The thread that owns llama.cpp where the model embeds and writes no text.

What :class:`inference.engine.engine.Engine` is without a scheduler and a KV cache.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

import structlog

from inference.engine.embeddings import Embedder, EmbeddingJob
from inference.engine.engine import end_process
from inference.engine.jobs import AnyJob, Cancel, Emit, Stop
from inference.engine.llama import Model
from inference.protocol import CacheBudget, CacheReport, TierReport, WorkerLoad, WorkerToGateway

log = structlog.get_logger(module="engine")

_TURN_TOKENS = 512


class EmbeddingEngine:
    """Runs embedding jobs on one model, many at a time. Others only put events into its inbox."""

    def __init__(
        self,
        model: Model,
        context_tokens: int,
        threads: int,
        emit: Emit,
        *,
        on_death: Callable[[], None] = end_process,
    ) -> None:
        """``on_death`` is called when the thread ends by a fault of ours."""
        self._embedder = Embedder(model, context_tokens=context_tokens, threads=threads)
        self._emit = emit
        self._on_death = on_death
        self._inbox: queue.SimpleQueue[EmbeddingJob | Cancel | Stop] = queue.SimpleQueue()
        self._outbox: list[tuple[AnyJob | None, WorkerToGateway]] = []
        self._reported = WorkerLoad(running=0, waiting=0)
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Return once the model has embedded a token: one that can't fails its load, not its first request.

        Raises:
            LlamaError: there is no memory for it, or the model can't compute.
        """
        self._thread.start()
        self._started.result()

    def submit(self, job: AnyJob) -> None:
        assert isinstance(job, EmbeddingJob), "the server refuses text"
        self._inbox.put(job)

    def cancel(self, job: AnyJob) -> None:
        """End a job before the next turn; one that has ended already is left alone."""
        self._inbox.put(Cancel(job))

    def grant(self, job: AnyJob, tokens: int, *, last: bool) -> None:
        """Nothing that runs wants more: all of its tokens were granted before it began."""

    def set_cache_budget(self, budget: CacheBudget) -> None:
        """Nothing of an input is kept when it is embedded."""

    def stop(self) -> None:
        """End the thread after the turn that is running."""
        self._inbox.put(Stop())
        self._thread.join()

    def _run(self) -> None:
        try:
            self._embedder.try_out()
        except Exception as fault:  # whatever it is: start() waits for it, and raises it there
            self._started.set_exception(fault)
            return
        self._started.set_result(None)
        off = TierReport(reason="nothing of an input is kept when it is embedded", possible=False)
        self._outbox.append((None, CacheReport(ram=off, ssd=off)))
        self._flush()
        try:
            while self._receive():
                self._flush()  # before what may take seconds: one that seems idle is stopped where it is not wanted
                self._outbox += self._embedder.step(_TURN_TOKENS)
                self._flush()
        except Exception:
            # A process without this thread looks well and answers nobody; a dead one is replaced at once.
            log.critical("The engine failed; its process ends", exc_info=True)
            self._on_death()

    def _receive(self) -> bool:
        """Take what has arrived, waiting for it only when nothing is left to embed. False ends the loop."""
        while True:
            try:
                event = self._inbox.get(block=self._embedder.idle)
            except queue.Empty:
                return True
            if isinstance(event, Stop):
                return False
            if isinstance(event, Cancel):
                assert isinstance(event.job, EmbeddingJob), "there are no others"
                self._outbox += self._embedder.cancel(event.job)
                self._flush()
            else:
                self._embedder.submit(event)

    def _flush(self) -> None:
        load = WorkerLoad(running=self._embedder.running, waiting=self._embedder.waiting)
        if load != self._reported:
            self._reported = load
            self._outbox.append((None, load))
        if self._outbox:
            self._emit(self._outbox)
            self._outbox = []
