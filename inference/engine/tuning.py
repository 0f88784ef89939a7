"""Which of a few ways to compute is the fastest here, measured by the engine's thread while nobody asks for anything.

Four sequences, 192 tokens deep, decode by themselves and beside a chunk of a prompt, in contexts that are as small as
this needs and are freed at once. One thing after the other is changed, what wins most first, and each change is tried
in turns with the best so far, so that what else the machine does meets both:

1. lanes split or unified: every token of unified ones scans the cells of all;
2. flash attention on or off;
3. a thread less than there are cores;
4. larger chunks of prompts beside those who decode.

Then it is measured what guessing tokens costs here (:mod:`inference.engine.speculation`).

A change has to win by :data:`MARGIN` in each of some rounds, or noise would turn the choice now and then. The type of
KV is not tried: it changes answers, so only an operator sets it. What is chosen here rounds differently, as another
batch does, no more.
"""

import ctypes
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from msgspec.structs import replace

from inference.engine.cache.names import BLOCK_TOKENS
from inference.engine.cache.state import Prefix, UnknownForm
from inference.engine.contexts import Contexts
from inference.engine.llama import Context, LlamaError, Model
from inference.engine.sequences import Limits, Pool
from inference.protocol import EngineParameters, Measured, Tuned

MARGIN = 1.05
LONGEST_STEP_SECONDS = 0.25
"""No chunk is chosen that keeps those who decode waiting for longer, however fast it is."""

_DECODING = 4
_LANE_TOKENS = 256
_CHUNKS = (128, 256)
_NOT_QUANTIZED = (None, "f32", "f16", "bf16")
"""Quantized V needs flash attention."""
_GUESSES = 7
"""A batch of eight: between the few guesses of a text that repeats itself a little and the most there are."""
_ROUNDS = 3
_MOST_SECONDS = 15.0
"""Of computing, however large the model is. One of 135 million parameters takes 2 s on two cores."""


class _Abandoned(Exception):
    """Somebody asks for something."""


class _TimeUp(Exception):
    pass


def faster(candidate: Measured, best: Measured) -> bool:
    """Whether a change is worth it: by the geometric mean of what it wins, decoding alone and beside a prompt."""
    gain = best.decode_seconds / candidate.decode_seconds * (best.mixed_seconds / candidate.mixed_seconds)
    return math.sqrt(gain) >= MARGIN


def best_chunk(mixed_seconds: Mapping[int, float], decode_seconds: float) -> int:
    """The chunk, in tokens, with which prompts come along fastest among those that do not keep others waiting too long.

    Args:
        mixed_seconds: of a step with each chunk.
        decode_seconds: of a step without any.
    """
    chosen, *larger = sorted(mixed_seconds)

    def rate(chunk: int) -> float:
        return chunk / max(mixed_seconds[chunk] - decode_seconds, 1e-9)

    for chunk in larger:
        if mixed_seconds[chunk] <= LONGEST_STEP_SECONDS and rate(chunk) >= MARGIN * rate(chosen):
            chosen = chunk
    return chosen


def cost_of_a_guess(one_seconds: float, more_seconds: float, guesses: int) -> float:
    """What each of some guesses adds to the time of a step, as a part of it: more than 0, 1 at most."""
    return min(1.0, max(0.001, round((more_seconds / one_seconds - 1) / guesses, 3)))


def measure(model: Model, limits: Limits, threads: int, abandon: Callable[[], bool]) -> Tuned | None:
    """Compare; None if it was abandoned. Without any figures the model is too large, or the machine too busy, for it.
    The memory that it took has been given back in any case.

    Args:
        limits: as the engine has them; only what they leave open is tried.
        abandon: asked all the time, in the midst of decodes too.

    Raises:
        LlamaError: there is no memory for it, or llama.cpp can't compute.
    """
    try:
        return _measure(model, limits, threads, abandon)
    finally:
        _trim()


def _measure(model: Model, limits: Limits, threads: int, abandon: Callable[[], bool]) -> Tuned | None:
    bench = _Bench(model, limits, threads, abandon)
    try:
        return bench.run()
    except _Abandoned:
        return None
    finally:
        bench.close()


class _Bench:
    def __init__(self, model: Model, limits: Limits, threads: int, abandon: Callable[[], bool]) -> None:
        self._model = model
        self._threads = threads
        self._abandon = abandon
        self._chunk = limits.prefill_beside_decode
        decoding = min(_DECODING, limits.lanes)
        self._limits = Limits(
            lanes=decoding + 1,
            lane_tokens=min(_LANE_TOKENS, limits.lane_tokens),
            long_slots=0,
            long_tokens=0,
            batch_tokens=limits.batch_tokens,
        )
        self._most_chunk = min(self._limits.lane_tokens, limits.batch_tokens - decoding)
        self._until = time.monotonic() + _MOST_SECONDS
        self._rigs: list[_Rig] = []
        self._chosen = EngineParameters()
        self._chunks: list[Measured] = []

    def run(self) -> Tuned:
        if self._chunk <= self._most_chunk:
            with suppress(_TimeUp):
                self._compare()
        measured = [rig.best(self._chunk) for rig in self._rigs if self._chunk in rig.mixed_seconds]
        return Tuned(parameters=self._chosen, measured=(*measured, *self._chunks))

    def close(self) -> None:
        for rig in self._rigs:
            rig.close()
        self._rigs = []  # they hold us: without a cycle they are freed at once

    def _compare(self) -> None:
        best = self._rig(EngineParameters())
        best.step(self._chunk)
        for change in list(self._changes(best)):
            candidate = self._rig(replace(best.parameters, **change))
            loser = candidate
            if all(self._wins(candidate, best) for _ in range(_ROUNDS)):
                best, loser = candidate, best
                self._chosen = best.parameters
            loser.close()
        self._choose_chunk(best)
        fixed = self._model.parameters
        if fixed.draft_cost is None and fixed.prompt_lookup is not False and not self._model.recurrent:
            cost = cost_of_a_guess(best.guessed_seconds(0), best.guessed_seconds(_GUESSES), _GUESSES)
            self._chosen = replace(self._chosen, draft_cost=cost)

    def _wins(self, candidate: "_Rig", best: "_Rig") -> bool:
        """A round."""
        return faster(candidate.step(self._chunk), best.step(self._chunk))

    def _changes(self, own: "_Rig") -> Iterator[dict[str, Any]]:
        """What an operator has left open."""
        fixed = self._model.parameters
        if fixed.unified is None:
            yield {"unified": True}
        if fixed.flash_attention is None and fixed.kv_type in _NOT_QUANTIZED and own.flash_attention is not None:
            yield {"flash_attention": "off" if own.flash_attention else "on"}
        if fixed.threads is None and self._threads > 2:
            yield {"threads": self._threads - 1}

    def _choose_chunk(self, rig: "_Rig") -> None:
        chunks = [chunk for chunk in _CHUNKS if self._chunk < chunk <= self._most_chunk]
        if self._model.parameters.prefill_beside_decode is not None or not chunks:
            return
        for chunk in chunks:
            rig.step(chunk)
            self._chunks.append(rig.best(chunk))
            if rig.mixed_seconds[chunk] > LONGEST_STEP_SECONDS:  # a larger one takes longer
                break
        chosen = best_chunk(rig.mixed_seconds, rig.decode_seconds)
        if chosen != self._chunk:
            self._chosen = replace(self._chosen, prefill_beside_decode=chosen)

    def _rig(self, parameters: EngineParameters) -> "_Rig":
        self._look_up()
        rig = _Rig(self._model, self._limits, parameters.threads or self._threads, parameters, self._look_up)
        self._rigs.append(rig)
        rig.fill()
        return rig

    def _look_up(self) -> None:
        if self._abandon():
            raise _Abandoned
        if time.monotonic() >= self._until:
            raise _TimeUp


class _Rig:
    """Contexts in one configuration, and the least seconds that a step took in them."""

    def __init__(
        self, model: Model, limits: Limits, threads: int, parameters: EngineParameters, look_up: Callable[[], None]
    ) -> None:
        """``look_up`` raises what is to end a decode that is under way."""
        self.parameters = parameters
        self.decode_seconds = math.inf
        self.mixed_seconds: dict[int, float] = {}
        """By the prompt's chunk."""
        self.flash_attention: bool | None = None
        """Whether llama.cpp uses it; None: it can't be seen."""
        self._vocabulary_size = model.vocabulary_size
        self._slots = range(limits.lanes - 1)
        self._prompt_slot = limits.lanes - 1
        self._depth = (limits.lane_tokens - BLOCK_TOKENS) // BLOCK_TOKENS * BLOCK_TOKENS
        self._position = 0
        self._look_up = look_up
        self._contexts = Contexts(
            model, limits, threads, unified=parameters.unified, flash_attention=parameters.flash_attention
        )
        lanes = self._contexts.of(Pool.LANES)
        assert lanes is not None
        self._lanes: Context = lanes
        lanes.abort_when(self._wants_end)

    def close(self) -> None:
        self._contexts.close()

    def fill(self) -> None:
        """Give each sequence its depth: copies of one computed block, which take as long to look at as others. KV that
        can't be cut is measured from the start of a text, as is what recurrent layers remember: it is no longer."""
        if not self._depth:
            return
        tokens = self._tokens(BLOCK_TOKENS)
        self._decode(tokens, range(BLOCK_TOKENS), [0] * BLOCK_TOKENS)
        try:
            layout, block = self._contexts.read(Pool.LANES, 0, BLOCK_TOKENS).prefix()
        except UnknownForm:
            self._lanes.forget_all()
            return
        if layout.checkpoint_bytes:
            self._lanes.forget_all()
            return
        self.flash_attention = not any(cache.transposed for cache in layout.caches)
        deep = Prefix.of(block.parts * (self._depth // BLOCK_TOKENS))
        if all(self._contexts.write(Pool.LANES, slot, layout, deep) for slot in self._slots):
            self._position = self._depth
        else:
            self._lanes.forget_all()
        self._seconds(0)  # the first step is slower than those that follow

    def step(self, chunk: int) -> Measured:
        """Measure a step of decoding, and one beside a prompt's chunk."""
        decode_seconds, mixed_seconds = self._seconds(0), self._seconds(chunk)
        self._contexts.forget(Pool.LANES, self._prompt_slot)
        self.decode_seconds = min(self.decode_seconds, decode_seconds)
        self.mixed_seconds[chunk] = min(self.mixed_seconds.get(chunk, math.inf), mixed_seconds)
        return self._measured(chunk, decode_seconds, mixed_seconds)

    def guessed_seconds(self, guesses: int) -> float:
        """The least time of a step of one sequence with so many guesses."""
        tokens = self._tokens(1 + guesses)
        positions = range(self._position, self._position + len(tokens))
        seconds = []
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            self._decode(tokens, positions, [0] * len(tokens), range(len(tokens)))
            seconds.append(time.perf_counter() - began)
            self._contexts.forget(Pool.LANES, 0, since=self._position)
        return min(seconds)

    def best(self, chunk: int) -> Measured:
        return self._measured(chunk, self.decode_seconds, self.mixed_seconds[chunk])

    def _measured(self, chunk: int, decode_seconds: float, mixed_seconds: float) -> Measured:
        parameters = replace(self.parameters, prefill_beside_decode=chunk)
        return Measured(parameters=parameters, decode_seconds=decode_seconds, mixed_seconds=mixed_seconds)

    def _seconds(self, chunk: int) -> float:
        count = len(self._slots) + chunk
        positions = [self._position] * len(self._slots) + list(range(chunk))
        began = time.perf_counter()
        self._decode(self._tokens(count), positions, [*self._slots, *[self._prompt_slot] * chunk], self._slots)
        self._position += 1
        return time.perf_counter() - began

    def _decode(
        self, tokens: Sequence[int], positions: Sequence[int], slots: Sequence[int], outputs: Sequence[int] = ()
    ) -> None:
        self._look_up()
        try:
            self._lanes.decode(tokens, positions, slots, outputs)
        except LlamaError:
            self._look_up()  # it was ended
            raise

    def _tokens(self, count: int) -> list[int]:
        return [1 + index % (self._vocabulary_size - 1) for index in range(count)]

    def _wants_end(self) -> bool:
        try:
            self._look_up()
        except (_Abandoned, _TimeUp):
            return True
        return False


def _trim() -> None:
    """Have the C library give back what was freed: an idle worker keeps no more memory than before."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # GNU's
    if trim is not None:
        trim(0)
