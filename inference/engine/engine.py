"""The thread that owns llama.cpp: receive → schedule → restore → decode → emit → save, one step after another.

Others only put events into its inbox and get messages out of ``emit``; no lock guards anything in here.
"""

import os
import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path

import structlog

from inference.engine.answering import Answering
from inference.engine.beginnings import Beginnings
from inference.engine.contexts import Contexts
from inference.engine.decoding import Decoded, decode
from inference.engine.embeddings import Embedder, EmbeddingJob
from inference.engine.job_spans import Lookup
from inference.engine.jobs import AnyJob, Cancel, Choice, DiskChanged, Emit, Event, Fetched, Granted, Job, Stop
from inference.engine.kv import Kv
from inference.engine.llama import FloatArray, Model
from inference.engine.measuring import Measuring
from inference.engine.reporting import Reporting
from inference.engine.sampling import choose_batch
from inference.engine.scheduler import Admission, Chunk, Preemption, Scheduler
from inference.engine.sequences import Limits, Pool, Sequence
from inference.engine.speculation import draft_cost
from inference.protocol import CacheBudget, Tuned, WorkerLoad, WorkerToGateway

log = structlog.get_logger(module="engine")

_EXIT_SOFTWARE = 70
"""EX_SOFTWARE of sysexits.h."""
_CHECK_SECONDS = 10.0
_EMBEDDING_TOKENS = 128
"""A turn of embeddings while there is no text: text that comes meanwhile waits for its end."""
_HELD_SECONDS = 0.05
"""Where all that run wait to be allowed more tokens, the time of those that wait for a place is looked at so often."""
_QUIET_SECONDS = 1.0
"""After so long without anything to do the engine measures how it computes fastest, if it is to."""


def end_process() -> None:
    os._exit(_EXIT_SOFTWARE)


class Engine:
    """Runs jobs on one model, many at a time."""

    def __init__(
        self,
        model: Model,
        limits: Limits,
        threads: int,
        emit: Emit,
        *,
        files: tuple[str, ...] = (),
        cache_directory: Path | None = None,
        on_tuned: Callable[[Tuned], None] | None = None,
        on_death: Callable[[], None] = end_process,
    ) -> None:
        """
        Args:
            files: the model's, which tell its content apart from any other's.
            cache_directory: for the SSD tier; None: there is none.
            on_tuned: is told, by the engine's thread, what was measured to be fastest when there was nothing else to
                do. None: nothing is measured.
            on_death: called when the thread ends by a fault of ours, after which no job would ever be answered.
        """
        self._model = model
        self._limits = limits
        self._threads = threads
        self._emit = emit
        self._files = files
        self._cache_directory = cache_directory
        self._on_death = on_death
        self._measuring = Measuring(model, limits, threads, on_tuned)
        self._inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._scheduler = Scheduler(limits, draft_cost=draft_cost(model.parameters, recurrent=model.recurrent))
        self._answering = Answering(model)
        self._reporting: Reporting
        self._contexts: Contexts
        self._kv: Kv
        self._beginnings: Beginnings
        self._embedder: Embedder | None = None
        """Made by the first request for embeddings."""
        self._check_due = 0.0
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Return once the model has computed a token.

        All computing is this thread's, the first token included: each thread that computes gets an OpenMP team of its
        own, and with more team members than cores their barriers sleep instead of spin, which costs two thirds of the
        speed.

        Raises:
            LlamaError: there is no memory for the lanes, or the model can't compute.
        """
        self._thread.start()
        self._started.result()

    def submit(self, job: AnyJob) -> None:
        self._inbox.put(job)
        self._measuring.interrupt()

    def cancel(self, job: AnyJob) -> None:
        """End a job before the next step; one that has ended already is left alone."""
        self._inbox.put(Cancel(job))

    def grant(self, job: AnyJob, tokens: int, *, last: bool) -> None:
        """A job that runs may come to so many tokens in all; ``last``: and to no more ever."""
        if isinstance(job, Job):  # embeddings are granted all of their tokens before they begin
            self._inbox.put(Granted(job, tokens, last))

    def set_cache_budget(self, budget: CacheBudget) -> None:
        self._inbox.put(budget)

    def stop(self) -> None:
        """End the thread after the step that is running."""
        self._inbox.put(Stop())
        self._measuring.interrupt()
        self._thread.join()

    # --- The loop ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._contexts = Contexts(self._model, self._limits, self._threads)
            self._kv = Kv(self._contexts, self._files, self._cache_directory, lambda: self._inbox.put(DiskChanged()))
            self._beginnings = Beginnings(self._kv)
            self._reporting = Reporting(self._kv.holds, self._kv.witness)
        except Exception as fault:  # whatever it is: start() waits for it, and raises it there
            self._started.set_exception(fault)
            return
        self._started.set_result(None)
        try:
            while self._receive():
                self._step()
            self._kv.close()
        except Exception:
            # A process without this thread looks well and answers nobody; a dead one is replaced at once.
            log.critical("The engine failed; its process ends", exc_info=True)
            self._on_death()

    def _step(self) -> None:
        now = time.monotonic()
        self._apply(self._scheduler.admit(now), now)
        self._flush()  # before what may take seconds: a worker that seems idle is stopped where it is not wanted
        for pool, chunks in self._scheduler.batch().items():
            if chunks:
                self._compute(pool, chunks)
        self._flush()
        self._bury()
        self._embed()

    def _receive(self) -> bool:
        """Take what has arrived, waiting for it only when nothing can run. False ends the loop."""
        taken = False
        while True:
            idle = not self._scheduler.running and not self._scheduler.waiting and not self._embedding
            if idle and self._inbox.empty():
                self._rest()
            # What was just taken may be a request that can be placed though all that run are held.
            held = not (idle or taken or self._embedding) and self._scheduler.held
            timeout = _HELD_SECONDS if held else _QUIET_SECONDS if self._measuring.wanted else None
            try:
                event = self._inbox.get(block=idle or held, timeout=timeout)
            except queue.Empty:
                if not idle:
                    return True
                self._measuring.run(lambda: not self._answering and self._inbox.empty())
                continue
            if isinstance(event, Stop):
                return False
            self._take(event)
            taken = True

    def _take(self, event: AnyJob | Cancel | Granted | CacheBudget | Fetched | DiskChanged) -> None:
        """DiskChanged has done its work when the loop wakes: what the disk reports is looked at whenever it flushes."""
        if isinstance(event, Job):
            self._accept(event)
        elif isinstance(event, EmbeddingJob):
            self._accept_embedding(event)
        elif isinstance(event, Cancel):
            self._cancel(event.job)
        elif isinstance(event, Granted):
            self._answering.grant(event.job, event.tokens, last=event.last)
            self._flush()
            self._bury()
        elif isinstance(event, Fetched):
            self._take_fetched(event)
        elif isinstance(event, CacheBudget):
            self._kv.set_budget(event)

    def _rest(self) -> None:
        """Nothing is left to do: say how things are, and see that they are so."""
        self._reporting.hurry()
        self._flush()
        if not self._answering and (now := time.monotonic()) >= self._check_due:
            self._check_due = now + _CHECK_SECONDS
            self._kv.check()

    def _cancel(self, job: AnyJob) -> None:
        if isinstance(job, EmbeddingJob):
            self._send_all(self._embedder.cancel(job) if self._embedder else [])
        else:
            self._answering.cancel(job)
        self._flush()
        self._bury()

    def _flush(self) -> None:
        load = WorkerLoad(running=self._scheduler.running, waiting=self._scheduler.waiting)
        idle = not load.running and not load.waiting
        if self._embedder is not None:
            load = WorkerLoad(
                running=load.running + self._embedder.running, waiting=load.waiting + self._embedder.waiting
            )
        for change in self._reporting.changes(load, lambda: self._kv.report(self._scheduler.cells), idle=idle):
            self._answering.send(None, change)
        if messages := self._answering.take_messages():
            self._emit(messages)

    # --- How a job begins --------------------------------------------------------------------------------------------

    def _accept(self, job: Job) -> None:
        choice = self._beginnings.choice(job)
        self._answering.open(choice)
        if not self._beginnings.fetch(choice, self._inbox.put):
            self._schedule(choice)

    def _take_fetched(self, event: Fetched) -> None:
        choice = event.choice
        wanted = choice.job in self._answering and not choice.scheduled  # else it was cancelled, or gave up waiting
        self._beginnings.take(event, wanted=wanted)
        if wanted:
            self._schedule(choice)

    def _schedule(self, choice: Choice) -> None:
        self._scheduler.add(choice.sequence)
        choice.scheduled = True

    # --- Embeddings --------------------------------------------------------------------------------------------------

    @property
    def _embedding(self) -> bool:
        return self._embedder is not None and not self._embedder.idle

    def _accept_embedding(self, job: EmbeddingJob) -> None:
        if self._embedder is None:
            self._embedder = Embedder(self._model, context_tokens=self._limits.context_tokens, threads=self._threads)
        self._embedder.submit(job)

    def _embed(self) -> None:
        """A turn of embeddings after each step of text: no longer than a chunk of a prompt where text is waiting."""
        if self._embedder is not None and not self._embedder.idle:
            text = self._scheduler.running or self._scheduler.waiting
            budget = self._limits.prefill_beside_decode if text else _EMBEDDING_TOKENS
            self._send_all(self._embedder.step(budget))
            self._flush()

    def _send_all(self, messages: Iterable[tuple[AnyJob, WorkerToGateway]]) -> None:
        for job, message in messages:
            self._answering.send(job, message)

    # --- Who holds cells ---------------------------------------------------------------------------------------------

    def _apply(self, admission: Admission, now: float) -> None:
        for sequence in admission.expired:
            _choice(sequence).scheduled = False
            job = _choice(sequence).job
            waited = round(now - job.arrived)
            self._answering.fail(
                job, 503, "queue_timeout", f"the request waited {waited} s for its turn: try again later"
            )
        for preemption in admission.preempted:
            self._save_preempted(preemption)
        for move in admission.moved:
            if self._contexts.of(Pool.LONG) is None:
                self._contexts.forget(Pool.LANES, move.lane)
                move.sequence.computed = 0
                self._fail_for_memory(_choice(move.sequence).job)
            elif not self._kv.move(move.lane, move.sequence.slot, move.sequence.computed):
                log.warning("A sequence could not be moved and is computed again", tokens=move.sequence.computed)
                move.sequence.computed = 0
        for sequence in admission.placed:
            self._begin(_choice(sequence), now)
        self._bury()

    def _save_preempted(self, preemption: Preemption) -> None:
        sequence = preemption.sequence
        log.debug("A sequence gives way", tokens=preemption.computed, tenant=sequence.tenant)
        self._kv.save(
            _choice(sequence).chain, sequence.tokens, preemption.pool, preemption.slot, preemption.computed, tail=True
        )
        self._contexts.forget(preemption.pool, preemption.slot)

    def _begin(self, choice: Choice, now: float) -> None:
        """It has cells: fill them with what is known of its tokens."""
        job, sequence = choice.job, choice.sequence
        assert sequence.pool is not None
        if self._contexts.of(sequence.pool) is None:
            self._fail_for_memory(job)
            return
        looked_up, disk_blocks = time.monotonic(), len(choice.pinned)
        sequence.computed = self._kv.restore(sequence, choice.chain, choice.take_inherited())
        self._unpin(choice)
        if job.started is None:
            job.started = now
            job.lookup = Lookup(looked_up, time.monotonic(), disk_blocks)
            job.cached_tokens = sequence.computed
            if choice.chain is not None:
                self._kv.count(len(job.tokens), job.cached_tokens)

    def _unpin(self, choice: Choice) -> None:
        self._kv.unpin(choice.pinned)
        choice.pinned = []

    def _bury(self) -> None:
        """Keep the KV of those who ended, and free their cells."""
        for choice in self._answering.take_ended():
            sequence = choice.sequence
            if sequence.pool is not None:
                self._save(choice, tail=True)
                self._contexts.forget(sequence.pool, sequence.slot)
                self._reporting.note_answer(choice)
            self._unpin(choice)
            if choice.scheduled:
                self._scheduler.remove(sequence)

    def _fail_for_memory(self, job: Job) -> None:
        message = "there is not enough memory for a context as long as this needs"
        self._answering.fail(job, 503, "insufficient_memory", message)

    def _save(self, choice: Choice, *, tail: bool) -> None:
        sequence = choice.sequence
        assert sequence.pool is not None
        self._kv.save(choice.chain, sequence.tokens, sequence.pool, sequence.slot, sequence.computed, tail=tail)

    # --- Computing ---------------------------------------------------------------------------------------------------

    def _compute(self, pool: Pool, chunks: list[Chunk]) -> None:
        context = self._contexts.of(pool)
        assert context is not None, "nobody is in a pool without a context"
        decoded = decode(context, chunks)
        if decoded is None:
            context.forget_all()
            for choice in self._answering.choices:
                if choice.sequence.pool is pool:
                    choice.sequence.computed = 0
                    self._answering.fail(choice.job, 500, "engine_failed", "the model failed to compute this request")
            return
        self._save_progress(chunks)
        if decoded.chunks:
            self._choose(decoded)

    def _choose(self, decoded: Decoded) -> None:
        """The next token of each, and more where guesses were right."""
        choices = [_choice(chunk.sequence) for chunk in decoded.chunks]
        now = time.monotonic()
        tokens = choose_batch([choice.sampler for choice in choices], decoded.firsts)
        for choice, chunk, rows, token in zip(choices, decoded.chunks, decoded.rows, tokens, strict=True):
            if choice.job.first_token is None:
                choice.job.first_token = now
                self._prompt_computed(choice, rows[0])
            self._follow(choice, token, chunk.guesses, rows)

    def _save_progress(self, chunks: list[Chunk]) -> None:
        """Of prompts that are not through yet."""
        for sequence in (chunk.sequence for chunk in chunks if chunk.sequence.pending):
            choice = _choice(sequence)
            if self._kv.wants_progress(sequence, choice.saved):
                self._save(choice, tail=False)
                choice.saved = sequence.computed

    def _follow(self, choice: Choice, token: int, guesses: tuple[int, ...], logits: FloatArray) -> None:
        """``token`` was chosen; as long as each one is what was guessed, the next is chosen from the next row."""
        sequence = choice.sequence
        for guess, row, next_row in zip(guesses, logits, logits[1:], strict=False):
            if not self._advance(choice, token, row) or token != guess:
                break
            sequence.computed += 1
            token = choice.sampler.choose(next_row)
        else:
            self._advance(choice, token, logits[-1])
        if guesses:
            assert sequence.pool is not None
            self._contexts.forget(sequence.pool, sequence.slot, since=sequence.computed)

    def _prompt_computed(self, choice: Choice, logits: FloatArray) -> None:
        """Others may use the prompt's KV from now on, the request's other choices first of all."""
        job, sequence = choice.job, choice.sequence
        assert sequence.pool is not None
        self._save(choice, tail=self._kv.sliding)
        self._reporting.note_prompt(choice)
        if job.request.n > 1:
            prefix = self._kv.prefix(sequence.pool, sequence.slot, sequence.computed)
            for index in range(1, job.request.n):
                if job not in self._answering:  # one of them could not be made, so none is
                    return
                other = self._beginnings.choice(job, index)
                other.inherited = prefix
                self._answering.open(other)
                self._schedule(other)
                self._advance(other, other.sampler.choose(logits), logits)

    def _advance(self, choice: Choice, token: int, logits: FloatArray) -> bool:
        """``token`` is the next one. False: the choice has ended."""
        if choice.job not in self._answering:  # another of its choices has failed in this step
            return False
        self._scheduler.generated(choice.sequence, token)
        return self._answering.advance(choice, token, logits)


def _choice(sequence: Sequence) -> Choice:
    assert isinstance(sequence.key, Choice)
    return sequence.key
