"""The two KV pools of a model as llama.cpp contexts, and sequence state on its way in, out and between them."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import structlog

from inference.engine.cache.state import Layout, Part, State, UnknownForm, join, parse
from inference.engine.llama import BUILD, Context, LlamaError, Model
from inference.engine.scheduler import Limits, Pool

log = structlog.get_logger(module="engine")

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
                    tokens=self._limits.long_tokens, sequences=self._limits.long_slots, unified=True
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

    def forget(self, pool: Pool, slot: int) -> None:
        if context := self._contexts.get(pool):
            context.forget(slot)

    def read(self, pool: Pool, slot: int) -> State | None:
        """A sequence's state, valid until the next read in its pool; None if it does not have the form we know."""
        try:
            return self._parse(self._contexts[pool], slot)
        except UnknownForm:
            return None

    def write(self, pool: Pool, slot: int, layout: Layout, parts: Sequence[Part]) -> bool:
        """Give a sequence the KV of ``parts``. False, and it has none, when llama.cpp does not take it as it should."""
        context = self.of(pool)
        if context is None:
            return False
        tokens = sum(used for _, _, used in parts)
        size = layout.blob_bytes(tokens, context.streams)
        if self._buffer.size < size:
            self._buffer = np.empty(size, np.uint8)
        blob = join(layout, parts, slot=slot, streams=context.streams, buffer=self._buffer)
        # Beyond a sliding window the oldest position is the window's.
        if context.write_state(slot, blob) and context.positions(slot) == (layout.first(tokens), tokens - 1):
            return True
        context.forget(slot)
        return False

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
            UnknownForm: it can't be cut (recurrent models), or what was joined is not what was cut.
        """
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
        lanes.decode(tokens, range(_PROOF_TOKENS), [0] * _PROOF_TOKENS, [])
        computed = self._parse(lanes, 0)
        whole = computed.cut(0, _PROOF_TOKENS)
        parts = [
            (computed.cut(0, _PROOF_CUT), _PROOF_CUT, _PROOF_CUT),
            (computed.cut(_PROOF_CUT, _PROOF_TOKENS), _PROOF_TOKENS - _PROOF_CUT, _PROOF_TOKENS - _PROOF_CUT),
        ]
        if not self.write(Pool.LANES, 1, computed.layout, parts):
            raise UnknownForm("llama.cpp does not take a joined state")
        if not np.array_equal(self._parse(lanes, 1).cut(0, _PROOF_TOKENS), whole):
            raise UnknownForm("a joined state reads out differently")
        lanes.decode(tokens[:1] * 2, [_PROOF_TOKENS] * 2, [0, 1], [0, 1])
        computed_logits, restored_logits = lanes.logits(2)
        if not np.array_equal(computed_logits, restored_logits):
            raise UnknownForm("logits after a joined state differ")
        return computed.layout

    def _parse(self, context: Context, slot: int) -> State:
        return parse(context.read_state(slot), self._model.window_tokens)

    def _create(self, *, tokens: int, sequences: int, unified: bool) -> Context:
        return self._model.create_context(
            tokens=tokens,
            sequences=sequences,
            unified=unified,
            batch_tokens=self._limits.batch_tokens,
            threads=self._threads,
            flash_attention=self._flash_attention,
        )
