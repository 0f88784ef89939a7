"""The thread that owns llama.cpp: receive → schedule → decode → emit, one step after another.

Others only put events into its inbox and get messages out of ``emit``; no lock guards anything in here.
"""

import os
import queue
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field

import structlog

from inference.engine.llama import Context, LlamaError, Model
from inference.engine.sampling import Sampler, choose_batch
from inference.engine.scheduler import Chunk, Limits, Pool, Scheduler, Sequence, Step
from inference.engine.text import TextStream
from inference.protocol import Delta, Failed, Finished, FinishReason, Generate, WorkerLoad, WorkerToGateway

log = structlog.get_logger(module="engine")

_EXIT_SOFTWARE = 70
"""EX_SOFTWARE of sysexits.h."""

Emit = Callable[[list[tuple["Job | None", WorkerToGateway]]], None]
"""Takes what one step produced, each message with its job; a message without one goes to every gateway."""


@dataclass(slots=True, eq=False, kw_only=True)
class Job:
    """One request, from its tokens to its last message."""

    peer: Hashable
    """The connection that it came on."""
    request: Generate
    tokens: list[int]
    """The prompt."""
    limit: int
    """Most tokens that prompt and completion may have together."""
    arrived: float = field(default_factory=time.monotonic)
    started: float | None = None
    first_token: float | None = None

    @property
    def id(self) -> int:
        return self.request.id


@dataclass(slots=True, eq=False)
class _Running:
    """What the engine keeps of a job beside its sequence."""

    job: Job
    sequence: Sequence
    sampler: Sampler
    text: TextStream
    prompt_tokens: int

    @property
    def completion_tokens(self) -> int:
        return len(self.sequence.tokens) - self.prompt_tokens


class _Cancel:
    def __init__(self, job: Job) -> None:
        self.job = job


class _Stop:
    pass


def _end_process() -> None:
    os._exit(_EXIT_SOFTWARE)


class Engine:
    """Runs jobs on one model, many at a time."""

    def __init__(
        self, model: Model, limits: Limits, threads: int, emit: Emit, on_death: Callable[[], None] = _end_process
    ) -> None:
        """``on_death`` is called when the thread ends by a fault of ours, after which no job would ever be answered."""
        self._model = model
        self._limits = limits
        self._threads = threads
        self._emit = emit
        self._on_death = on_death
        self._inbox: queue.SimpleQueue[Job | _Cancel | _Stop] = queue.SimpleQueue()
        self._scheduler = Scheduler(limits)
        self._jobs: dict[Job, _Running] = {}
        self._outbox: list[tuple[Job | None, WorkerToGateway]] = []
        self._reported = (0, 0)
        self._contexts: dict[Pool, Context] = {}
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

    def submit(self, job: Job) -> None:
        self._inbox.put(job)

    def cancel(self, job: Job) -> None:
        """End a job before the next step; one that has ended already is left alone."""
        self._inbox.put(_Cancel(job))

    def stop(self) -> None:
        """End the thread after the step that is running."""
        self._inbox.put(_Stop())
        self._thread.join()

    # --- The loop ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._contexts[Pool.LANES] = self._create_lanes()
        except Exception as fault:
            self._started.set_exception(fault)
            return
        self._started.set_result(None)
        try:
            while self._receive():
                self._step()
        except Exception:
            # A process without this thread looks well and answers nobody; a dead one is replaced at once.
            log.critical("The engine failed; its process ends", exc_info=True)
            self._on_death()

    def _step(self) -> None:
        step = self._scheduler.plan()
        self._note_starts(step)
        self._apply_moves(step)
        for pool, chunks in step.chunks.items():
            if chunks:
                self._compute(pool, chunks)
        self._flush()

    def _receive(self) -> bool:
        """Take what has arrived, waiting for it only when nothing runs. False ends the loop."""
        block = not self._jobs
        while True:
            try:
                event = self._inbox.get(block=block)
            except queue.Empty:
                return True
            block = False
            if isinstance(event, _Stop):
                return False
            if isinstance(event, _Cancel):
                self._finish_cancelled(event.job)
                self._flush()
                block = not self._jobs
            else:
                self._accept(event)

    def _accept(self, job: Job) -> None:
        sequence = Sequence(key=job, tokens=job.tokens, limit=job.limit)
        self._scheduler.add(sequence)
        self._jobs[job] = _Running(
            job, sequence, Sampler(job.request.sampling, job.tokens), TextStream(job.request.stop), len(job.tokens)
        )

    def _note_starts(self, step: Step) -> None:
        now = time.monotonic()
        for chunks in step.chunks.values():
            for chunk in chunks:
                if chunk.sequence.computed == 0:
                    running = self._running(chunk.sequence)
                    running.job.started = running.job.started or now

    def _apply_moves(self, step: Step) -> None:
        for move in step.moves:
            lanes, long = self._contexts[Pool.LANES], self._long_context()
            if long is None:
                self._fail([self._running(move.sequence)], "there is not enough memory for a longer context")
            elif not lanes.copy_sequence_to(long, move.lane, move.sequence.slot):
                log.warning("A sequence could not be moved and is computed again", tokens=move.sequence.computed)
                move.sequence.computed = 0
            lanes.forget(move.lane)
        if step.moves:
            # A sequence without memory has left, and one that is computed again has other chunks than were planned.
            for chunks in step.chunks.values():
                chunks[:] = [chunk for chunk in chunks if chunk.sequence.key in self._jobs and chunk.sequence.computed]

    def _compute(self, pool: Pool, chunks: list[Chunk]) -> None:
        context = self._contexts[Pool.LANES] if pool is Pool.LANES else self._long_context()
        members = [self._running(chunk.sequence) for chunk in chunks]
        if context is None:
            self._fail(members, "there is not enough memory for a context as long as this request needs")
            return
        outputs = self._decode(context, chunks)
        if outputs is None:
            context.forget_all()
            pool_members = [running for running in self._jobs.values() if running.sequence.pool is pool]
            self._fail(pool_members, "the model failed to compute this request")
            return
        if outputs:
            logits = context.logits(len(outputs))
            now = time.monotonic()
            choosing = [members[index] for index in outputs]
            for running, token in zip(choosing, choose_batch([each.sampler for each in choosing], logits), strict=True):
                self._advance(running, token, now)

    def _decode(self, context: Context, chunks: list[Chunk]) -> list[int] | None:
        """Compute the chunks; returns the indices of those that now have logits, None if llama.cpp failed."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        wanted: list[int] = []
        outputs: list[int] = []
        for index, chunk in enumerate(chunks):
            sequence, start = chunk.sequence, chunk.sequence.computed
            tokens += sequence.tokens[start : start + chunk.count]
            positions += range(start, start + chunk.count)
            slots += [sequence.slot] * chunk.count
            if chunk.wants_output:
                wanted.append(len(tokens) - 1)
                outputs.append(index)
        try:
            context.decode(tokens, positions, slots, wanted)
        except LlamaError as fault:
            log.error("Decode failed", reason=str(fault), sequences=len(chunks))
            return None
        for chunk in chunks:
            chunk.sequence.computed += chunk.count
        return outputs

    # --- One token, and the ways a job ends --------------------------------------------------------------------------

    def _advance(self, running: _Running, token: int, now: float) -> None:
        """The model chose ``token``: send its text, or end."""
        job, sequence = running.job, running.sequence
        job.first_token = job.first_token or now
        sequence.tokens.append(token)
        if self._model.is_end(token) and not job.request.ignore_eos:
            self._finish(running, FinishReason.STOP, now)
            return
        text = running.text.push(self._model.piece(token))
        if running.text.stopped:
            self._finish(running, FinishReason.STOP, now, last_text=text)
        elif len(sequence.tokens) >= sequence.limit:
            self._finish(running, FinishReason.LENGTH, now, last_text=text)
        elif text:
            self._outbox.append((job, Delta(id=job.id, text=text, tokens=running.completion_tokens)))

    def _finish(self, running: _Running, reason: FinishReason, now: float, last_text: str = "") -> None:
        job = running.job
        text = last_text + running.text.finish()
        if text:
            self._outbox.append((job, Delta(id=job.id, text=text, tokens=running.completion_tokens)))
        started = job.started or now
        first_token = job.first_token or now
        self._outbox.append(
            (
                job,
                Finished(
                    id=job.id,
                    reason=reason,
                    prompt_tokens=running.prompt_tokens,
                    completion_tokens=running.completion_tokens,
                    queue_seconds=started - job.arrived,
                    prefill_seconds=first_token - started,
                    decode_seconds=now - first_token,
                ),
            )
        )
        self._forget(running)

    def _finish_cancelled(self, job: Job) -> None:
        if (running := self._jobs.get(job)) is not None:
            self._finish(running, FinishReason.CANCELLED, time.monotonic())

    def _fail(self, members: list[_Running], message: str) -> None:
        for running in members:
            if running.job in self._jobs:
                self._outbox.append(
                    (running.job, Failed(id=running.job.id, status=500, code="engine_failed", message=message))
                )
                self._forget(running)

    def _forget(self, running: _Running) -> None:
        del self._jobs[running.job]
        sequence = running.sequence
        self._scheduler.remove(sequence)
        if sequence.pool is not None and (context := self._contexts.get(sequence.pool)) is not None:
            context.forget(sequence.slot)

    def _flush(self) -> None:
        load = (self._scheduler.running, self._scheduler.waiting)
        if load != self._reported:
            self._reported = load
            self._outbox.append((None, WorkerLoad(running=load[0], waiting=load[1])))
        if self._outbox:
            self._emit(self._outbox)
            self._outbox = []

    def _running(self, sequence: Sequence) -> _Running:
        assert isinstance(sequence.key, Job)
        return self._jobs[sequence.key]

    # --- Contexts ----------------------------------------------------------------------------------------------------

    def _create_lanes(self) -> Context:
        """The lanes, and one token through them: a model that can't compute fails its load, not its first request."""
        context = self._model.create_context(
            tokens=self._limits.lanes * self._limits.lane_tokens,
            sequences=self._limits.lanes,
            unified=False,
            batch_tokens=self._limits.batch_tokens,
            threads=self._threads,
        )
        context.decode([0], [0], [0], [0])
        context.forget_all()
        return context

    def _long_context(self) -> Context | None:
        """The long pool, made when first needed; None when there is no memory for it (tried again the next time)."""
        if Pool.LONG not in self._contexts:
            try:
                self._contexts[Pool.LONG] = self._model.create_context(
                    tokens=self._limits.long_tokens,
                    sequences=self._limits.long_slots,
                    unified=True,
                    batch_tokens=self._limits.batch_tokens,
                    threads=self._threads,
                )
            except LlamaError as fault:
                log.error("No long context", reason=str(fault))
                return None
            log.info("Long context created", tokens=self._limits.long_tokens)
        return self._contexts[Pool.LONG]
