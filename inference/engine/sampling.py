"""Logits → token, in numpy.

Order of the steps, as llama.cpp and vLLM have them: bias, penalties, what a grammar forbids, then (unless greedy)
top-k, temperature, min-p, top-p, draw. Greedy choice of a whole batch is one ``argmax``; numpy is faster here than
llama.cpp's sampler chain, which builds a candidate list of the whole vocabulary for every sequence.
"""

import math

import numpy as np
import numpy.typing as npt

from inference.engine.constraints import Constraint
from inference.protocol import Sampling

FloatArray = npt.NDArray[np.float32]

_NUCLEUS = 1024
"""Candidates sorted at first for top-p; the whole vocabulary is sorted only if they don't hold the wanted mass."""


class Sampler:
    """Chooses the tokens of one sequence."""

    def __init__(
        self, settings: Sampling, prompt: list[int], *, choice: int = 0, constraint: Constraint | None = None
    ) -> None:
        """``choice``: which one of its request this is; each draws differently. ``constraint`` is this choice's own."""
        self._settings = settings
        self._random = np.random.default_rng(_seed(settings.seed, choice))
        self._constraint = constraint
        self.lifted = False
        """The constraint is not in force: it is the answer's, and the model still thinks."""
        self._bias_ids = np.fromiter(settings.logit_bias.keys(), np.int64)
        self._bias = np.fromiter(settings.logit_bias.values(), np.float32)
        self._generated: dict[int, int] = {}
        self._seen = set(prompt) if settings.repetition_penalty != 1.0 else set()
        self._penalises = (
            settings.presence_penalty != 0.0 or settings.frequency_penalty != 0.0 or settings.repetition_penalty != 1.0
        )

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the choice is the highest logit, so that a batch can be decided at once."""
        plain = self._settings.temperature == 0.0 and not self._penalises and not self._bias.size
        return plain and self._in_force is None

    @property
    def held(self) -> bool:
        """A constraint is in force: an end token is its end, too."""
        return self._in_force is not None

    @property
    def complete(self) -> bool:
        """The constraint allows nothing more."""
        return self._constraint is not None and self._constraint.complete

    @property
    def fault(self) -> str:
        """Why the constraint can't be followed further; empty: it can. The choice is then of no use."""
        return "" if self._constraint is None else self._constraint.fault

    def choose(self, logits: FloatArray) -> int:
        """The next token, given a row of logits of shape ``(vocabulary,)``, which is left as it is."""
        row = self._adjust(logits)
        constraint = self._in_force
        if constraint is not None:
            row = constraint.allow(row)
        token = int(row.argmax()) if self._settings.temperature == 0.0 else self._draw(row)
        if constraint is not None:
            constraint.accept(token)
        if self._penalises:
            self._generated[token] = self._generated.get(token, 0) + 1
            if self._settings.repetition_penalty != 1.0:
                self._seen.add(token)
        return token

    @property
    def _in_force(self) -> Constraint | None:
        return None if self.lifted else self._constraint

    def _adjust(self, logits: FloatArray) -> FloatArray:
        if not self._penalises and not self._bias.size:
            return logits
        row = logits.copy()
        known = self._bias_ids < row.size
        row[self._bias_ids[known]] += self._bias[known]
        if self._settings.repetition_penalty != 1.0 and self._seen:
            ids = np.fromiter(self._seen, np.int64)
            # Keskar et al. 2019 (CTRL): divide positive logits, multiply negative ones.
            penalty = np.float32(self._settings.repetition_penalty)
            row[ids] = np.where(row[ids] > 0, row[ids] / penalty, row[ids] * penalty)
        if self._generated:
            ids = np.fromiter(self._generated.keys(), np.int64)
            counts = np.fromiter(self._generated.values(), np.float32)
            # OpenAI's definition: logit −= count · frequency + presence, over the text generated so far.
            row[ids] -= counts * self._settings.frequency_penalty + self._settings.presence_penalty
        return row

    def _draw(self, row: FloatArray) -> int:
        settings = self._settings
        highest = row.max()
        # A very small temperature overflows to greedy.
        temperature = max(settings.temperature, 1e-4)
        ids: npt.NDArray[np.int64] | None = None
        if settings.min_p > 0.0:
            # Before the others, which changes nothing, since they keep the likeliest token, by which it measures: it
            # spares them all but some dozens (0.04 instead of 0.09 ms for 49,152 tokens, 0.07 instead of 0.37 for
            # 262,144).
            ids = np.flatnonzero(~(row < highest + temperature * math.log(settings.min_p)))  # NaN stays
            row = row[ids]
        if 0 < settings.top_k < row.size:
            kept = np.argpartition(row, row.size - settings.top_k)[row.size - settings.top_k :]
            ids = kept if ids is None else ids[kept]
            row = row[kept]
        # Weights relative to the likeliest token, whose own is 1.
        weights = np.exp((row - highest) / temperature)
        if settings.top_p < 1.0:
            weights = _nucleus(weights, settings.top_p)
        mass = np.cumsum(weights, dtype=np.float64)
        index = int(np.searchsorted(mass, self._random.random() * mass[-1], side="right"))
        if index == row.size:  # rounding; what weighs nothing is never drawn
            index = int(np.flatnonzero(weights)[-1])
        return index if ids is None else int(ids[index])


def choose_batch(samplers: list[Sampler], logits: FloatArray) -> list[int]:
    """The next token of each sequence; ``logits`` has one row for each sampler."""
    if all(sampler.is_plain_greedy for sampler in samplers):
        return [int(token) for token in logits.argmax(axis=1)]
    return [
        int(row.argmax()) if sampler.is_plain_greedy else sampler.choose(row)
        for sampler, row in zip(samplers, logits, strict=True)
    ]


def _seed(seed: int | None, choice: int) -> int | list[int] | None:
    if seed is None:
        return None
    return [seed & (2**64 - 1), choice] if choice else seed & (2**64 - 1)


def _nucleus(weights: FloatArray, top_p: float) -> FloatArray:
    """Keep the fewest likeliest tokens whose mass reaches ``top_p`` (Holtzman et al. 2019), at least one."""
    wanted = top_p * float(weights.sum(dtype=np.float64))
    count = min(_NUCLEUS, weights.size)
    order = np.argpartition(weights, weights.size - count)[weights.size - count :]
    if float(weights[order].sum(dtype=np.float64)) < wanted:
        order = np.arange(weights.size)
    order = order[np.argsort(-weights[order], kind="stable")]
    mass = np.cumsum(weights[order], dtype=np.float64)
    keep = min(order.size, int(np.searchsorted(mass, wanted, side="left")) + 1)
    kept = np.zeros_like(weights)
    kept[order[:keep]] = weights[order[:keep]]
    return kept
