"""Embeds texts on one model: turns of :mod:`embedding_batches` computed in a context of their own.

The context is made by the first request, for inputs of ordinary length; a longer one gets a larger context, which is
given back when nothing is left to do. Two things grow with it: an encoder's batch, because an input is computed at
once, and a decoder's cells.
"""

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import structlog

from inference.engine.embedding_batches import Batches, Capacity, Chunk, Input, Turn
from inference.engine.job_spans import embedding_spans
from inference.engine.llama import EmbeddingContext, FloatArray, LlamaError, Model, Pooling
from inference.memory import available_bytes
from inference.protocol import Embed, Embedded, Failed

log = structlog.get_logger(module="engine")

_SLOTS = 32
_CELLS = 2048
_MOST_BATCH_TOKENS = 512
_LEAST_BATCH_TOKENS = 64
_LOGITS_BYTES = 128 * 1024 * 1024
"""llama.cpp keeps room for the logits of each token of a batch, even where nobody asks for them."""
_MASK_BYTES = 6
"""For each pair of a batch's tokens: its attention mask in 32 and in 16 bits."""


@dataclass(slots=True, eq=False, kw_only=True)
class EmbeddingJob:
    """One request, from its tokens to its vectors."""

    peer: Hashable
    """The connection that it came on."""
    request: Embed
    inputs: Sequence[Sequence[int]]
    """Tokens, at least one each, none longer than the model's context."""
    arrived: float = field(default_factory=time.monotonic)
    vectors: dict[int, bytes] = field(default_factory=dict)
    """Those that are computed, by the index of their input."""

    @property
    def id(self) -> int:
        return self.request.id


Message = tuple[EmbeddingJob, Embedded | Failed]


def pooling_of(model: Model) -> Pooling | None:
    """How the model's vectors become one of a text; None if it makes none of texts.

    (1) mean, cls, last named by the GGUF   → that
    (2) rank, none named by the GGUF        → None: it scores pairs of texts, or keeps a vector for each token
    (3) nothing named, an encoder           → mean, as sentence-transformers does
    (4) nothing named, a decoder            → last: no other token has seen the whole text
    """
    if model.pooling in (Pooling.RANK, Pooling.NONE):
        return None
    return model.pooling or (Pooling.MEAN if model.attends_both_ways else Pooling.LAST)


def embeds_only(model: Model) -> bool:
    """Whether the model writes no text: an encoder, or a decoder that names how its tokens are pooled. Converters write
    that for embedding models only, and cells for text that nobody asks for would take more memory than all else."""
    return model.attends_both_ways or model.pooling not in (None, Pooling.NONE)


class Embedder:
    """Owned by the thread that owns llama.cpp; it calls :meth:`step` as long as this is not ``idle``."""

    def __init__(self, model: Model, *, context_tokens: int, threads: int) -> None:
        self._model = model
        self._context_tokens = context_tokens
        self._threads = threads
        self._pooling = pooling_of(model) or Pooling.NONE
        self._context: EmbeddingContext | None = None
        self._batches = Batches(self._capacity(0))
        self._jobs: set[EmbeddingJob] = set()
        self._pooled: dict[Input, FloatArray] = {}
        """What was pooled so far, of inputs that are computed in chunks."""

    @property
    def idle(self) -> bool:
        return not self._jobs

    @property
    def running(self) -> int:
        """Jobs of which something was begun."""
        return len(self._jobs) - self.waiting

    @property
    def waiting(self) -> int:
        return self._batches.untouched

    def try_out(self) -> None:
        """Compute a token. Raises LlamaError."""
        self._context = self._create_context()
        self._context.embed([0], [0], [0])
        self._context.forget(0)

    def submit(self, job: EmbeddingJob) -> None:
        self._jobs.add(job)
        request = job.request
        self._batches.add(job, job.inputs, tenant=request.tenant, priority=request.priority, weight=request.weight)

    def cancel(self, job: EmbeddingJob) -> list[Message]:
        """End a job before the next turn; one that has ended already is left alone."""
        if job not in self._jobs:
            return []
        self._forget(job)
        self._rest()
        return [(job, Failed(id=job.id, status=499, code="cancelled", message="the request was cancelled"))]

    def step(self, budget: int) -> list[Message]:
        """Compute one turn of about ``budget`` tokens; returns the last messages of the jobs that it ended."""
        turn = self._batches.plan(budget)
        if turn.grow_to is not None:
            self._resize(turn.grow_to)
            turn = self._batches.plan(budget)
        try:
            context = self._context = self._context or self._create_context()
        except LlamaError as fault:
            return self._fail(503, "insufficient_memory", f"{fault}: try shorter inputs, or again later")
        try:
            messages = self._compute(context, turn)
        except LlamaError as fault:
            log.error("Embedding failed", reason=str(fault))
            return self._fail(500, "engine_failed", "the model failed to compute this request")
        self._rest()
        return messages

    # --- One turn ----------------------------------------------------------------------------------------------------

    def _compute(self, context: EmbeddingContext, turn: Turn) -> list[Message]:
        if turn.advance:
            context.advance(*_columns(turn.advance))
            for chunk in turn.advance:
                self._batches.done(chunk)
        if not turn.pooled:
            return []
        vectors = context.embed(*_columns(turn.pooled))
        messages: list[Message] = []
        for chunk in turn.pooled:
            if chunk.input.owner not in self._jobs:
                continue  # another of its inputs has failed just now
            slot = chunk.input.slot
            self._pool(chunk, vectors[slot])
            if self._batches.done(chunk):
                context.forget(slot)
                messages += self._complete(chunk.input)
        return messages

    def _pool(self, chunk: Chunk, vector: FloatArray) -> None:
        """llama.cpp has pooled over the chunk; go on to pool over the input."""
        before = self._pooled.get(chunk.input)
        if self._pooling is Pooling.MEAN:
            weighted = vector * chunk.count
            self._pooled[chunk.input] = weighted if before is None else before + weighted
        elif before is None or self._pooling is Pooling.LAST:
            self._pooled[chunk.input] = vector

    def _complete(self, input: Input) -> list[Message]:
        job = input.owner
        assert isinstance(job, EmbeddingJob)
        encoded = normalised(self._pooled.pop(input)[: job.request.dimensions])
        if encoded is None:
            self._forget(job)
            message = f"the model computed no usable vector of input {input.index}: its numbers overflow"
            return [(job, Failed(id=job.id, status=500, code="engine_failed", message=message, param="input"))]
        job.vectors[input.index] = encoded
        if len(job.vectors) < len(job.inputs):
            return []
        self._jobs.discard(job)
        vectors = tuple(job.vectors[index] for index in range(len(job.inputs)))
        embedded = Embedded(
            id=job.id,
            vectors=vectors,
            prompt_tokens=sum(map(len, job.inputs)),
            spans=embedding_spans(job.request, job.arrived, time.monotonic()),
        )
        return [(job, embedded)]

    # --- The ways a job ends otherwise -------------------------------------------------------------------------------

    def _fail(self, status: int, code: str, message: str) -> list[Message]:
        """End all jobs with inputs in the slots, and the context with them: its cells are in doubt."""
        jobs = [job for job in self._jobs if job in self._batches.running]
        for job in jobs:
            self._forget(job)
        self._resize(0)
        return [(job, Failed(id=job.id, status=status, code=code, message=message)) for job in jobs]

    def _forget(self, job: EmbeddingJob) -> None:
        self._jobs.discard(job)
        for input in self._batches.remove(job):
            self._pooled.pop(input, None)
            if self._context is not None:
                self._context.forget(input.slot)

    # --- The context -------------------------------------------------------------------------------------------------

    def _rest(self) -> None:
        """Give a large context back when nothing needs it any more."""
        if self.idle and self._batches.capacity != self._capacity(0):
            self._resize(0)

    def _resize(self, longest: int) -> None:
        """Close the context; the next one takes inputs of ``longest`` tokens, and ordinary ones anyway."""
        self._batches.capacity = self._capacity(longest)
        if self._context is not None:
            self._context.close()
            self._context = None

    def _create_context(self) -> EmbeddingContext:
        capacity = self._batches.capacity
        if capacity != self._capacity(0):
            self._check_memory(capacity)
        log.info("Embedding context created", tokens=capacity.tokens, batch_tokens=capacity.batch_tokens)
        return self._model.create_embedding_context(
            tokens=capacity.tokens,
            sequences=capacity.slots,
            batch_tokens=capacity.batch_tokens,
            pooling=self._pooling,
            threads=self._threads,
        )

    def _check_memory(self, capacity: Capacity) -> None:
        """Refuse a large context in good time: without memory for it the kernel would end the process.

        Raises:
            LlamaError: with the arithmetic.
        """
        tokens = capacity.batch_tokens
        needed = tokens * (4 * self._model.vocabulary_size + _MASK_BYTES * tokens)
        available = available_bytes()
        if needed > available:
            raise LlamaError(
                f"{tokens} tokens at once need {needed >> 20} MB ({tokens} x {self._model.vocabulary_size} numbers and "
                f"a mask of {tokens} x {tokens}), and {available >> 20} MB are available"
            )

    def _capacity(self, longest: int) -> Capacity:
        affordable = _LOGITS_BYTES // (4 * self._model.vocabulary_size)
        batch_tokens = min(max(affordable, _LEAST_BATCH_TOKENS), _MOST_BATCH_TOKENS, self._context_tokens)
        roomy = min(_power_of_two(longest), self._context_tokens)
        if self._model.attends_both_ways:
            batch_tokens = tokens = max(batch_tokens, roomy)
        else:
            tokens = max(min(_CELLS, self._context_tokens), roomy)
        return Capacity(
            whole=self._model.attends_both_ways,
            last_only=self._pooling is Pooling.LAST,
            slots=min(_SLOTS, batch_tokens),
            batch_tokens=batch_tokens,
            tokens=tokens,
        )


def normalised(vector: FloatArray) -> bytes | None:
    """``vector`` at length 1 as the protocol carries it; None if it has no direction (zero, infinite, not a number)."""
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if not 0 < length < float("inf"):
        return None
    return (vector / length).astype("<f4").tobytes()


def _columns(chunks: Sequence[Chunk]) -> tuple[list[int], list[int], list[int]]:
    """Tokens, positions and slots of one batch."""
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    for chunk in chunks:
        start = chunk.input.computed
        tokens += chunk.input.tokens[start : start + chunk.count]
        positions += range(start, start + chunk.count)
        slots += [chunk.input.slot] * chunk.count
    return tokens, positions, slots


def _power_of_two(tokens: int) -> int:
    """The next one: contexts of a few sizes, not of one for each input."""
    return 1 << max(0, tokens - 1).bit_length()
