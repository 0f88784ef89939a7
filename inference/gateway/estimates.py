"""How many tokens a request is promised at first. Pure.

The gateway has no tokenizer, so a prompt is estimated; its worker counts it, and asks for more where that was too few.
"""

from inference.gateway.parse import InferenceRequest
from registry.errors import QuotaExceeded

STEP_TOKENS = 256
"""A choice without ``max_tokens`` is promised so many at a time."""

_CHARACTERS_PER_TOKEN = 3
_TOKENS_PER_MESSAGE = 8
_TOKENS_PER_PROMPT = 24
"""Templates add words of their own. A prompt that comes to more than it was estimated asks once more."""


def first_grants(request: InferenceRequest, burst: int | None) -> list[int]:
    """Of each prompt, together with its choices; all of them no more than ``burst``.

    Raises:
        QuotaExceeded: ``max_tokens`` alone is more than one request may have.
    """
    answer = 0 if request.inputs else request.n * (STEP_TOKENS if request.max_tokens is None else request.max_tokens)
    prompts = _prompt_estimates(request)
    if burst is not None:
        if answer * len(prompts) >= burst and request.max_tokens is not None:
            raise burst_exceeded(burst, answer * len(prompts) + len(prompts))
        if sum(prompts) + answer * len(prompts) > burst:
            return [burst // len(prompts)] * len(prompts)
    return [prompt + answer for prompt in prompts]


def least_context(request: InferenceRequest) -> int:
    """The tokens that a model's context must have for it, as far as can be told."""
    answer = 0 if request.inputs else request.max_tokens or 1
    return max(_prompt_estimates(request)) + answer


def burst_exceeded(burst: int, tokens: int) -> QuotaExceeded:
    return QuotaExceeded(
        f"The prompt and its answer come to at least {tokens} tokens, and this model's burst_token_limit lets one "
        f"request have {burst}: send a shorter prompt, or lower max_tokens and n.",
        param="max_tokens",
    )


def _prompt_estimates(request: InferenceRequest) -> list[int]:
    if request.inputs:
        return [sum(_estimate(content) for content in request.inputs)]
    if request.messages is not None:
        text = 0
        for message in request.messages:  # loops, not sums of generators: this is on every request's way
            text += len(message.content)
            if message.reasoning:
                text += len(message.reasoning)
            for call in message.tool_calls:
                text += len(call.arguments)
        for tool in request.tools:
            text += len(tool.parameters) + len(tool.description) + len(tool.name)
        return [_TOKENS_PER_PROMPT + _TOKENS_PER_MESSAGE * len(request.messages) + text // _CHARACTERS_PER_TOKEN]
    first = request.tokens if request.tokens is not None else (request.text or "") + (request.suffix or "")
    return [_estimate(content) for content in (first, *request.further_prompts)]


def _estimate(content: str | tuple[int, ...]) -> int:
    """Of text that no template is put around."""
    return len(content) + 2 if isinstance(content, tuple) else 4 + len(content) // _CHARACTERS_PER_TOKEN
