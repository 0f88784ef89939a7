"""The thread that owns llama.cpp: receive → schedule → restore → decode → emit → save, one step after another.

Others only put events into its inbox and get messages out of ``emit``; no lock guards anything in here.
"""

import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import structlog

from inference.engine.contexts import Contexts
from inference.engine.embeddings import Embedder, EmbeddingJob
from inference.engine.held import Held, answer_links, last_block, prompt_links
from inference.engine.jobs import AnyJob, Cancel, Choice, DiskChanged, Emit, Event, Fetched, Job, Stop
from inference.engine.kv import Kv
from inference.engine.llama import Context, FloatArray, LlamaError, Model
from inference.engine.logprobs import token_logprob
from inference.engine.output import Sent
from inference.engine.sampling import Sampler, choose_batch
from inference.engine.scheduler import Admission, Chunk, Limits, Pool, Preemption, Scheduler, Sequence
from inference.engine.tuning import measure
from inference.protocol import (
    CacheBudget,
    CacheReport,
    Delta,
    Failed,
    Finished,
    FinishReason,
    TokenLogprob,
    Tuned,
    WorkerLoad,
    WorkerToGateway,
)

log = structlog.get_logger(module="engine")

_EXIT_SOFTWARE = 70
"""EX_SOFTWARE of sysexits.h."""
_REPORT_SECONDS = 0.25
"""The cache is reported so often at most, while it changes."""

_CHECK_SECONDS = 10.0

_EMBEDDING_TOKENS = 128
"""A turn of embeddings while there is no text: text that comes meanwhile waits for its end."""
_QUIET_SECONDS = 1.0
"""After so long without anything to do the engine measures how it computes fastest, if it is to."""
_MEASUREMENTS = 5
"""So many may be given up because somebody asked for something."""
_FETCH_SECONDS = 2.0
"""Of 1,000 tokens a working disk gives the blocks in 30 ms; computing them takes longer than 2 s on few machines."""


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
        self._on_tuned = on_tuned
        self._measurements = 0
        self._on_death = on_death
        self._called = threading.Event()
        """Whoever has something to do for the engine sets it, which ends a measurement."""
        self._inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._scheduler = Scheduler(limits)
        self._jobs: dict[Job, list[Choice]] = {}
        """The choices of each that have not ended."""
        self._ended: list[Choice] = []
        """Choices that ended in this step. Their clients are told first, then their KV is kept, their cells freed."""
        self._outbox: list[tuple[AnyJob | None, WorkerToGateway]] = []
        self._reported_load = WorkerLoad(running=0, waiting=0)
        self._reported_cache = CacheReport()
        self._held: Held
        self._report_due = 0.0
        self._check_due = 0.0
        self._contexts: Contexts
        self._kv: Kv
        self._embedder: Embedder | None = None
        """Made by the first request for embeddings."""
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
        self._called.set()

    def cancel(self, job: AnyJob) -> None:
        """End a job before the next step; one that has ended already is left alone."""
        self._inbox.put(Cancel(job))

    def set_cache_budget(self, budget: CacheBudget) -> None:
        self._inbox.put(budget)

    def stop(self) -> None:
        """End the thread after the step that is running."""
        self._inbox.put(Stop())
        self._called.set()
        self._thread.join()

    # --- The loop ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._contexts = Contexts(self._model, self._limits, self._threads)
            self._kv = Kv(self._contexts, self._files, self._cache_directory, lambda: self._inbox.put(DiskChanged()))
            self._held = Held(self._kv.holds)
        except Exception as fault:
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
        for pool, chunks in self._scheduler.batch().items():
            if chunks:
                self._compute(pool, chunks)
        self._flush()
        self._bury()
        self._embed()

    def _receive(self) -> bool:
        """Take what has arrived, waiting for it only when nothing can run. False ends the loop."""
        while True:
            idle = not self._scheduler.running and not self._scheduler.waiting and not self._embedding
            if idle and self._inbox.empty():
                self._rest()
            try:
                event = self._inbox.get(block=idle, timeout=_QUIET_SECONDS if self._on_tuned else None)
            except queue.Empty:
                if not idle:
                    return True
                self._measure()
                continue
            if isinstance(event, Stop):
                return False
            self._take(event)

    def _take(self, event: "Job | EmbeddingJob | Cancel | CacheBudget | Fetched | DiskChanged") -> None:
        if isinstance(event, Job):
            self._accept(event)
        elif isinstance(event, EmbeddingJob):
            self._accept_embedding(event)
        elif isinstance(event, Cancel):
            self._finish_cancelled(event.job)
        elif isinstance(event, Fetched):
            self._take_fetched(event)
        elif isinstance(event, CacheBudget):
            self._kv.set_budget(event)

    def _rest(self) -> None:
        """Nothing is left to do: say how things are, and see that they are so."""
        self._report_due = 0.0
        self._flush()
        if not self._jobs and (now := time.monotonic()) >= self._check_due:
            self._check_due = now + _CHECK_SECONDS
            self._kv.check()

    def _measure(self) -> None:
        """Find out how to compute fastest here, unless somebody comes meanwhile. It takes effect with the next load."""
        assert self._on_tuned is not None
        self._called.clear()
        if self._jobs or not self._inbox.empty():
            return
        self._measurements += 1
        log.info("Measuring how to compute fastest here")
        try:
            tuned = measure(self._model, self._limits, self._threads, self._called.is_set)
        except LlamaError as fault:
            log.warning("Nothing was measured", reason=str(fault))
            self._on_tuned = None
            return
        if tuned is not None and tuned.measured:
            self._on_tuned(tuned)
        if tuned is not None or self._measurements == _MEASUREMENTS:
            self._on_tuned = None

    # --- How a job begins --------------------------------------------------------------------------------------------

    def _accept(self, job: Job) -> None:
        choice = self._choose_beginning(job, index=0, tokens=job.tokens)
        self._jobs[job] = [choice]
        missing = self._kv.missing(choice.chain, job.tokens)
        if missing.ids:
            self._kv.fetch(missing, lambda payloads: self._inbox.put(Fetched(choice, missing, payloads)))
            # A disk that hangs must not hang the request: without an answer the prompt is computed.
            timer = threading.Timer(_FETCH_SECONDS, lambda: self._inbox.put(Fetched(choice, missing, [])))
            timer.daemon = True
            timer.start()
            choice.fetching = timer
        else:
            self._schedule(choice)

    def _take_fetched(self, event: Fetched) -> None:
        choice = event.choice
        if choice.job in self._jobs and not choice.scheduled:  # else it was cancelled meanwhile, or gave up waiting
            assert choice.fetching is not None
            choice.fetching.cancel()
            choice.pinned = self._kv.fetched(event.missing, event.payloads)
            self._schedule(choice)

    def _schedule(self, choice: Choice) -> None:
        self._scheduler.add(choice.sequence)
        choice.scheduled = True

    def _choose_beginning(self, job: Job, *, index: int, tokens: list[int]) -> Choice:
        request = job.request
        sequence = Sequence(
            key=None,
            tokens=list(tokens),
            limit=job.limit,
            tenant=request.tenant,
            priority=request.priority,
            arrived=job.arrived,
            start_by=None if request.queue_seconds is None else job.arrived + request.queue_seconds,
        )
        chain = self._kv.chain(request.partition, job.shared_tokens)
        output = job.plan.output()
        sampler = Sampler(request.sampling, job.tokens, choice=index, constraint=job.plan.constraint())
        sampler.lifted = output.thinking
        choice = Choice(job, index, sequence, sampler, output, chain)
        sequence.key = choice
        return choice

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
            self._outbox += self._embedder.step(budget)
            self._flush()

    # --- Who holds cells ---------------------------------------------------------------------------------------------

    def _apply(self, admission: Admission, now: float) -> None:
        for sequence in admission.expired:
            _choice(sequence).scheduled = False
            job = _choice(sequence).job
            waited = round(now - job.arrived)
            self._fail(job, 503, "queue_timeout", f"the request waited {waited} s for its turn: try again later")
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
        sequence.computed = self._kv.restore(sequence, choice.chain, choice.inherited)
        choice.inherited = ()
        self._unpin(choice)
        if job.started is None:
            job.started = now
            job.cached_tokens = sequence.computed
            if choice.chain is not None:
                self._kv.count(len(job.tokens), job.cached_tokens)

    def _unpin(self, choice: Choice) -> None:
        self._kv.unpin(choice.pinned)
        choice.pinned = []

    def _bury(self) -> None:
        """Keep the KV of those who ended, and free their cells."""
        for choice in self._ended:
            sequence = choice.sequence
            if sequence.pool is not None:
                self._kv.save(choice.chain, sequence.tokens, sequence.pool, sequence.slot, sequence.computed, tail=True)
                self._contexts.forget(sequence.pool, sequence.slot)
                self._note_answer(choice)
            self._unpin(choice)
            if choice.scheduled:
                self._scheduler.remove(sequence)
        self._ended = []

    # --- Computing ---------------------------------------------------------------------------------------------------

    def _compute(self, pool: Pool, chunks: list[Chunk]) -> None:
        context = self._contexts.of(pool)
        assert context is not None, "nobody is in a pool without a context"
        if not _decode(context, chunks):
            context.forget_all()
            for choice in [each for choices in self._jobs.values() for each in choices]:
                if choice.sequence.pool is pool:
                    choice.sequence.computed = 0
                    self._fail(choice.job, 500, "engine_failed", "the model failed to compute this request")
            return
        self._save_progress(chunks)
        choosing = [_choice(chunk.sequence) for chunk in chunks if not chunk.sequence.pending]
        if choosing:
            logits = context.logits(len(choosing))
            now = time.monotonic()
            tokens = choose_batch([each.sampler for each in choosing], logits)
            for choice, row, token in zip(choosing, logits, tokens, strict=True):
                if choice.job.first_token is None:
                    choice.job.first_token = now
                    self._prompt_computed(choice, row)
                self._advance(choice, token, row)

    def _save_progress(self, chunks: list[Chunk]) -> None:
        """Of prompts that are not through yet."""
        for sequence in (chunk.sequence for chunk in chunks if chunk.sequence.pending):
            choice = _choice(sequence)
            if self._kv.wants_progress(sequence.computed - choice.saved):
                assert sequence.pool is not None
                self._kv.save(
                    choice.chain, sequence.tokens, sequence.pool, sequence.slot, sequence.computed, tail=False
                )
                choice.saved = sequence.computed

    def _note_prompt(self, choice: Choice) -> None:
        """Gateways may be told that its prompt's KV is here."""
        job = choice.job
        for link, tokens in prompt_links(job.request, len(job.tokens)):
            self._note(choice, link, tokens)

    def _note_answer(self, choice: Choice) -> None:
        if choice.complete:
            # Thoughts stand before the answer in its KV, and are not in the conversation's next turn.
            tokens = len(choice.job.tokens) if choice.answer.thoughts else choice.sequence.computed
            for link in answer_links(choice.job.request, choice.answer):
                self._note(choice, link, tokens)

    def _note(self, choice: Choice, link: bytes, tokens: int) -> None:
        block = last_block(min(tokens, choice.sequence.computed))
        if block is not None and choice.chain is not None:
            self._held.note(link, tokens, choice.chain.block(block, choice.sequence.tokens).name)

    def _prompt_computed(self, choice: Choice, logits: FloatArray) -> None:
        """Others may use the prompt's KV from now on, the request's other choices first of all."""
        job, sequence = choice.job, choice.sequence
        assert sequence.pool is not None
        self._kv.save(
            choice.chain, sequence.tokens, sequence.pool, sequence.slot, sequence.computed, tail=self._kv.sliding
        )
        self._note_prompt(choice)
        if job.request.n > 1:
            parts = self._kv.parts(sequence.pool, sequence.slot, sequence.computed)
            for index in range(1, job.request.n):
                if job not in self._jobs:  # one of them could not be made, so none is
                    return
                other = self._choose_beginning(job, index=index, tokens=job.tokens)
                other.inherited = parts
                self._jobs[job].append(other)
                self._schedule(other)
                self._advance(other, other.sampler.choose(logits), logits)

    # --- One token, and the ways a choice ends -----------------------------------------------------------------------

    def _advance(self, choice: Choice, token: int, logits: FloatArray) -> None:
        """The model chose ``token``: send what comes of it, or end."""
        job, sequence, sampler, output = choice.job, choice.sequence, choice.sampler, choice.output
        if job not in self._jobs:  # another of its choices has failed in this step
            return
        job.completion_tokens += 1
        sequence.tokens.append(token)
        self._scheduler.generated(sequence)
        if sampler.fault:
            self._fail(job, 400, "grammar_failed", f"what the answer must be can't be followed: {sampler.fault}")
        elif self._model.is_end(token) and (sampler.held or not job.request.ignore_eos):
            self._finish(choice, FinishReason.STOP)
        else:
            sent = output.push(token, self._model.piece(token), self._logprob(job, token, logits))
            choice.answer.take(sent)
            sampler.lifted = output.thinking
            if output.stopped or sampler.complete:
                self._finish(choice, FinishReason.STOP, sent)
            elif len(sequence.tokens) >= sequence.limit:
                self._finish(choice, FinishReason.LENGTH, sent)
            elif sent:
                self._outbox.append((job, _delta(choice, sent)))

    def _logprob(self, job: Job, token: int, logits: FloatArray) -> TokenLogprob | None:
        count = job.request.logprobs
        return None if count is None else token_logprob(logits, token, count, self._model.piece)

    def _finish(self, choice: Choice, reason: FinishReason, sent: Sent | None = None) -> None:
        job = choice.job
        if sent:
            self._outbox.append((job, _delta(choice, sent)))
        last, reason = choice.output.finish(reason)
        choice.answer.take(last)
        choice.complete = True
        self._outbox.append((job, _delta(choice, last, reason)))
        self._jobs[job].remove(choice)
        self._ended.append(choice)
        if not self._jobs[job]:
            self._finish_job(job, reason)

    def _finish_job(self, job: Job, reason: FinishReason) -> None:
        now = time.monotonic()
        started = job.started or now
        first_token = job.first_token or now
        finished = Finished(
            id=job.id,
            reason=reason,
            prompt_tokens=len(job.tokens),
            completion_tokens=job.completion_tokens,
            cached_tokens=job.cached_tokens,
            queue_seconds=started - job.arrived,
            prefill_seconds=first_token - started,
            decode_seconds=now - first_token,
        )
        self._outbox.append((job, finished))
        self._ended += self._jobs.pop(job)

    def _finish_cancelled(self, job: AnyJob) -> None:
        if isinstance(job, EmbeddingJob):
            self._outbox += self._embedder.cancel(job) if self._embedder else []
            self._flush()
        elif job in self._jobs:
            self._finish_job(job, FinishReason.CANCELLED)
            self._flush()
            self._bury()

    def _fail_for_memory(self, job: Job) -> None:
        self._fail(job, 503, "insufficient_memory", "there is not enough memory for a context as long as this needs")

    def _fail(self, job: Job, status: int, code: str, message: str) -> None:
        if job in self._jobs:
            self._outbox.append((job, Failed(id=job.id, status=status, code=code, message=message)))
            self._ended += self._jobs.pop(job)

    def _flush(self) -> None:
        self._report()
        if self._outbox:
            self._emit(self._outbox)
            self._outbox = []

    def _report(self) -> None:
        load = WorkerLoad(running=self._scheduler.running, waiting=self._scheduler.waiting)
        if self._embedder is not None:
            load = WorkerLoad(
                running=load.running + self._embedder.running, waiting=load.waiting + self._embedder.waiting
            )
        if load != self._reported_load:
            self._reported_load = load
            self._outbox.append((None, load))
        now = time.monotonic()
        if now < self._report_due:
            return
        self._report_due = now + _REPORT_SECONDS
        cache = self._kv.report(self._scheduler.cells)
        if cache != self._reported_cache:
            self._reported_cache = cache
            self._outbox.append((None, cache))
        self._held.check(cache, idle=not self._scheduler.running and not self._scheduler.waiting)
        if changes := self._held.take_changes():
            self._outbox.append((None, changes))


def _delta(choice: Choice, sent: Sent, finish: FinishReason | None = None) -> Delta:
    return Delta(
        id=choice.job.id,
        index=choice.index,
        tokens=choice.job.completion_tokens,
        text=sent.text,
        reasoning=sent.reasoning,
        tool_calls=sent.tool_calls,
        logprobs=sent.logprobs,
        finish=finish,
    )


def _choice(sequence: Sequence) -> Choice:
    assert isinstance(sequence.key, Choice)
    return sequence.key


def _decode(context: Context, chunks: list[Chunk]) -> bool:
    """Compute the chunks; False, with all KV of the context in doubt, if llama.cpp failed."""
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    wanted: list[int] = []
    for chunk in chunks:
        sequence, start = chunk.sequence, chunk.sequence.computed
        tokens += sequence.tokens[start : start + chunk.count]
        positions += range(start, start + chunk.count)
        slots += [sequence.slot] * chunk.count
        if chunk.wants_output:
            wanted.append(len(tokens) - 1)
    try:
        context.decode(tokens, positions, slots, wanted)
    except LlamaError as fault:
        log.error("Decode failed", reason=str(fault), sequences=len(chunks))
        return False
    for chunk in chunks:
        chunk.sequence.computed += chunk.count
    return True
