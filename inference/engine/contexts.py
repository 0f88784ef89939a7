"""The two KV pools of a model as llama.cpp contexts, and sequence state on its way in, out and between them."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import structlog

from inference.cells import LONG_BATCH_TOKENS
from inference.engine.cache.state import Bytes, Layout, Memory, Part, Prefix, State, UnknownForm, join, parse
from inference.engine.llama import BUILD, Context, FloatArray, LlamaError, Model
from inference.engine.sequences import Limits, Pool

log = structlog.get_logger(module="engine")

RANGE_TOKENS = 512
"""Long sequences are read and written so many tokens at a time."""

_PROOF_TOKENS = 5
_PROOF_CUT = 3


class Contexts:
    """Owned by the engine's thread, which all calls must come from."""

    def __init__(
        self,
        model: Model,
        limits: Limits,
        threads: int,
        *,
        unified: bool | None = None,
        flash_attention: Literal["on", "off"] | None = None,
    ) -> None:
        """Make the lanes and compute a token in them: a model that can't fails its load, not its first request.

        Args:
            unified: the lanes share one space of cells, which each of them attends over.
            flash_attention: this and the one before, where they are None, are as the model's parameters say.

        Raises:
            LlamaError: there is no memory for the lanes, or the model can't compute.
        """
        self._model = model
        self._limits = limits
        self._threads = threads
        self._unified = bool(model.parameters.unified if unified is None else unified)
        self._flash_attention = flash_attention
        self._memory = Memory.HYBRID if model.hybrid else Memory.RECURRENT if model.recurrent else Memory.ROWS
        self._buffer = np.empty(0, np.uint8)
        lanes = self._create(tokens=limits.lanes * limits.lane_tokens, sequences=limits.lanes, unified=self._unified)
        lanes.decode([0], [0], [0], [0])
        lanes.forget_all()
        self._contexts = {Pool.LANES: lanes}

    def of(self, pool: Pool) -> Context | None:
        """The pool's context. The long one is made when first needed; None when there is no memory for it (it is tried
        again the next time)."""
        if pool not in self._contexts:
            try:
                self._contexts[pool] = self._create(
                    tokens=self._limits.long_tokens,
                    sequences=self._limits.long_slots + 1,
                    unified=True,
                    micro_batch_tokens=LONG_BATCH_TOKENS,
                )
            except LlamaError as fault:
                log.error("No long context", reason=str(fault))
                return None
            log.info("Long context created", tokens=self._limits.long_tokens)
        return self._contexts[pool]

    def close(self) -> None:
        """Give the memory back; nothing else may be called after it."""
        for context in self._contexts.values():
            context.close()
        self._contexts = {}

    def forget(self, pool: Pool, slot: int, *, since: int = 0) -> None:
        """Free a sequence's cells, from the position ``since`` on."""
        if context := self._contexts.get(pool):
            context.forget(slot, since=since)

    def read(self, pool: Pool, slot: int, tokens: int) -> "Reading":
        """The KV of a sequence that holds ``tokens``, to be used before anything else is done in its pool."""
        return Reading(self._contexts[pool], slot, tokens, self._parse, self._spare(pool))

    def write(self, pool: Pool, slot: int, layout: Layout, prefix: Prefix) -> bool:
        """Give a sequence the KV of ``prefix``. False, and it has none, if llama.cpp does not take it as it should."""
        context = self.of(pool)
        if context is None:
            return False
        context.forget(slot)
        spare = self._spare(pool)
        done = (
            self._write_state(context, layout, prefix, slot, 0)
            if spare is None
            else self._write_ranges(context, layout, prefix, slot, spare)
        )
        if done and context.positions(slot) == (layout.lowest_position(prefix.tokens), prefix.tokens - 1):
            return True
        context.forget(slot)
        return False

    def _write_ranges(self, context: Context, layout: Layout, prefix: Prefix, slot: int, spare: int) -> bool:
        """Range by range through a spare sequence: neither memory for all of it at once, nor cells side by side. What
        recurrent layers remember goes with each range: a copy of a range has all of it."""
        start = 0
        for group in _ranges(prefix.parts):
            stop = start + sum(used for _, _, used in group)
            if not self._write_state(context, layout, replace(prefix, parts=tuple(group)), spare, start):
                return False
            context.copy_range(spare, slot, start, stop)
            context.forget(spare)
            start = stop
        return True

    def _write_state(self, context: Context, layout: Layout, prefix: Prefix, slot: int, start: int) -> bool:
        """The parts begin at ``start``; the prefix has more tokens than theirs where they are a range of it."""
        stop = start + sum(used for _, _, used in prefix.parts)
        size = layout.blob_bytes(start, stop, prefix.tokens, context.streams)
        if self._buffer.size < size:
            self._buffer = np.empty(size, np.uint8)
        blob = join(
            layout,
            prefix.parts,
            slot=slot,
            streams=context.streams,
            start=start,
            total=prefix.tokens,
            checkpoint=prefix.checkpoint,
            buffer=self._buffer,
        )
        return context.write_state(slot, blob)

    def _parse(self, blob: Bytes, start: int = 0) -> State:
        return parse(blob, self._model.window_tokens, start, self._memory)

    def _spare(self, pool: Pool) -> int | None:
        """A sequence of the long pool that never runs: rows go through it range by range. A state without any is read
        and written at once."""
        return self._limits.long_slots if pool is Pool.LONG and self._memory is not Memory.RECURRENT else None

    @property
    def build(self) -> str:
        """What this model's numbers depend on beside its content and the form of its state."""
        parameters = self._model.parameters
        changes = [parameters.rope_freq_base, parameters.rope_freq_scale, parameters.n_gpu_layers]
        return f"{BUILD} {changes}" if any(change is not None for change in changes) else BUILD

    def prove(self) -> Layout:
        """The layout of this model's state, proven on the model itself: cut, joined and set into another lane, it reads
        out as the same bytes, and the next token's logits are the same as where it was computed.

        Raises:
            UnknownForm: it has not the form that we know, or what was joined is not what was cut.
        """
        if self._memory is not Memory.ROWS and self._model.window_tokens:
            raise UnknownForm("recurrent layers beside a sliding window are not supported")
        if self._limits.lanes < 2 or self._limits.lane_tokens <= _PROOF_TOKENS:
            raise UnknownForm("there are too few cells to prove it")
        lanes = self._contexts[Pool.LANES]
        try:
            return self._prove(lanes)
        except LlamaError as fault:
            raise UnknownForm(str(fault)) from fault
        finally:
            lanes.forget_all()

    def _prove(self, lanes: Context) -> Layout:
        tokens = [index % self._model.vocabulary_size for index in range(1, _PROOF_TOKENS + 1)]
        slots = [0] * _PROOF_TOKENS
        lanes.decode(tokens, range(_PROOF_TOKENS), slots, [])
        layout, computed = self.read(Pool.LANES, 0, _PROOF_TOKENS).prefix(_PROOF_CUT)
        computed_logits = _next_logits(lanes, tokens[0], 0)
        # In unified lanes it comes back into the same cells, so that sums are rounded alike; other tokens in them
        # meanwhile prove that it was brought back, and not left there.
        lanes.forget(0)
        lanes.decode(tokens[::-1], range(_PROOF_TOKENS), slots, [])
        lanes.forget(0)
        if not self.write(Pool.LANES, 1, layout, computed):
            raise UnknownForm("llama.cpp does not take a joined state")
        if not _equal(self.read(Pool.LANES, 1, _PROOF_TOKENS).prefix(_PROOF_CUT)[1], computed):
            raise UnknownForm("a joined state reads out differently")
        if not np.array_equal(_next_logits(lanes, tokens[0], 1), computed_logits):
            raise UnknownForm("logits after a joined state differ")
        return layout

    def _create(self, *, tokens: int, sequences: int, unified: bool, micro_batch_tokens: int | None = None) -> Context:
        return self._model.create_context(
            tokens=tokens,
            sequences=sequences,
            unified=unified,
            batch_tokens=self._limits.batch_tokens,
            threads=self._threads,
            flash_attention=self._flash_attention,
            micro_batch_tokens=micro_batch_tokens,
        )


def _next_logits(lanes: Context, token: int, slot: int) -> FloatArray:
    lanes.decode([token], [_PROOF_TOKENS], [slot], [0])
    logits: FloatArray = lanes.logits(1)[0].copy()
    return logits


def _equal(one: Prefix, other: Prefix) -> bool:
    """Byte for byte."""
    return all(np.array_equal(left, right) for left, right in zip(_payloads(one), _payloads(other), strict=True))


def _payloads(prefix: Prefix) -> list[Bytes]:
    rows = [payload for payload, _, _ in prefix.parts]
    return rows if prefix.checkpoint is None else [*rows, prefix.checkpoint]


class Reading:
    """The KV of one sequence in its cells. Short ones are read at once, long ones range by range as they are asked for:
    their whole state would take as much memory again as their cells."""

    def __init__(
        self, context: Context, slot: int, tokens: int, parse: Callable[..., State], spare: int | None
    ) -> None:
        self._context = context
        self._slot = slot
        self.tokens = tokens
        self._parse = parse
        self._spare = spare
        self._state: State | None = None

    def cut(self, start: int, stop: int) -> Bytes:
        """KV of the tokens from ``start`` up to ``stop``, which lie in one range of :data:`RANGE_TOKENS`.

        Raises:
            UnknownForm: the state does not have the form that we know, or other tokens.
        """
        if self._state is None or not self._state.start <= start < stop <= self._state.stop:
            self._state = self._whole() if self._spare is None else self._range(self._spare, start)
        if stop > self._state.stop:
            raise UnknownForm(f"it has {self._state.stop} tokens, not {stop}")
        return self._state.cut(start, stop)

    def checkpoint(self) -> Bytes | None:
        """What recurrent layers remember of all its tokens; None: there are none. Raises as :meth:`cut`."""
        if self._state is None:
            self.cut(0, min(self.tokens, RANGE_TOKENS))
        assert self._state is not None
        if not self._state.layout.checkpoint_bytes:
            return None
        if self._state.checkpoint_tokens != self.tokens:
            raise UnknownForm(f"recurrent layers remember {self._state.checkpoint_tokens} tokens, not {self.tokens}")
        return self._state.checkpoint.copy()

    def prefix(self, range_tokens: int = RANGE_TOKENS) -> tuple[Layout, Prefix]:
        """All of it, in ranges, and its form. Raises as :meth:`cut`."""
        borders = [*range(0, self.tokens, range_tokens), self.tokens]
        parts = tuple(
            (self.cut(start, stop), stop - start, stop - start) for start, stop in itertools.pairwise(borders)
        )
        checkpoint = self.checkpoint()
        assert self._state is not None, "a sequence has tokens"
        layout = self._state.layout
        return layout, Prefix(self.tokens, parts if layout.caches else (), checkpoint)

    def _whole(self) -> State:
        state = self._parse(self._context.read_state(self._slot))
        if state.stop != self.tokens:
            raise UnknownForm(f"it has {state.stop} tokens, not {self.tokens}")
        return state

    def _range(self, spare: int, start: int) -> State:
        start = start // RANGE_TOKENS * RANGE_TOKENS
        self._context.copy_range(self._slot, spare, start, min(start + RANGE_TOKENS, self.tokens))
        try:
            return self._parse(self._context.read_state(spare), start)
        finally:
            self._context.forget(spare)


def _ranges(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """The parts in groups of about :data:`RANGE_TOKENS`."""
    group: list[Part] = []
    for part in parts:
        group.append(part)
        if sum(used for _, _, used in group) >= RANGE_TOKENS:
            yield group
            group = []
    if group:
        yield group
