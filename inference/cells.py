"""How many KV cells a model gets: chosen by the engine when it loads one, and reckoned with before. Pure.

A part of what the engine shares with the rest (:mod:`inference.protocol`): whoever reckons what a load will take has to
choose as the engine will.
"""

import msgspec

from inference.protocol import EngineParameters

LANES = 16
LANE_TOKENS = 1024
MAX_CONTEXT_TOKENS = 32_768
"""The long pool's cap: KV of a model trained for 128k tokens would take more memory than its weights."""
BATCH_TOKENS = 256
LONG_BATCH_TOKENS = 128
"""Computed at a time in the long pool. Of SmolLM2-135M at 8,192 tokens the scores of so many take 38 MB; computing 512
at a time is 10 % faster."""


class Cells(msgspec.Struct, frozen=True, kw_only=True):
    """A token's keys and values take one."""

    lanes: int
    lane_tokens: int
    long_tokens: int
    """0: the lanes hold the model's whole context and there is no long pool."""

    @property
    def context_tokens(self) -> int:
        """The longest that one sequence can become."""
        return max(self.lane_tokens, self.long_tokens)


def cells(trained_context_tokens: int, parameters: EngineParameters) -> Cells:
    """What operators have set, else our own choice, within what the model was trained for."""
    context_tokens = parameters.context_tokens or MAX_CONTEXT_TOKENS
    if not (parameters.rope_freq_base or parameters.rope_freq_scale):  # which stretch what it was trained for
        context_tokens = min(context_tokens, trained_context_tokens)
    context_tokens = max(1, context_tokens)
    lane_tokens = min(parameters.lane_tokens or LANE_TOKENS, context_tokens)
    return Cells(
        lanes=parameters.lanes or LANES,
        lane_tokens=lane_tokens,
        long_tokens=context_tokens if context_tokens > lane_tokens else 0,
    )
