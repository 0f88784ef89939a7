"""One decode: chunks of sequences → llama.cpp's batch → logits."""

import itertools
from dataclasses import dataclass

import numpy as np
import structlog

from inference.engine.llama import Context, FloatArray, LlamaError
from inference.engine.scheduler import Chunk

log = structlog.get_logger(module="engine")


@dataclass(frozen=True, slots=True)
class Decoded:
    """Valid until the next decode."""

    chunks: list[Chunk]
    """Those that wanted output."""
    logits: FloatArray
    """Of each of them in turn: a row for its last token, then one for each of its guesses."""

    @property
    def rows(self) -> list[FloatArray]:
        """Each chunk's."""
        starts = self._starts
        return [self.logits[start:end] for start, end in itertools.pairwise([*starts, len(self.logits)])]

    @property
    def firsts(self) -> FloatArray:
        """Each chunk's first row, as one matrix."""
        return self.logits if len(self.chunks) == len(self.logits) else self.logits[self._starts]

    @property
    def _starts(self) -> list[int]:
        counts = [1 + len(chunk.guesses) for chunk in self.chunks]
        return [0, *itertools.accumulate(counts[:-1])]


def decode(context: Context, chunks: list[Chunk]) -> Decoded | None:
    """Compute the chunks. None, with all KV of the context in doubt, if llama.cpp failed."""
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    outputs: list[int] = []
    wanted = [chunk for chunk in chunks if chunk.wants_output]
    for chunk in chunks:
        sequence, start = chunk.sequence, chunk.sequence.computed
        count = chunk.count + len(chunk.guesses)
        tokens += sequence.tokens[start : start + chunk.count]
        tokens += chunk.guesses
        positions += range(start, start + count)
        slots += [sequence.slot] * count
        if chunk.wants_output:
            outputs += range(len(tokens) - 1 - len(chunk.guesses), len(tokens))
    try:
        context.decode(tokens, positions, slots, outputs)
    except LlamaError as fault:
        log.error("Decode failed", reason=str(fault), sequences=len(chunks))
        return None
    for chunk in chunks:
        chunk.sequence.computed += chunk.count
    return Decoded(wanted, context.logits(len(outputs)) if outputs else np.empty((0, 0), np.float32))
