"""How long a model takes, fitted to what was recorded of it.

What is assumed, as simple as will do:

    lanes      a model answers so many requests at once as its worker has lanes; others wait, in the order of arrival.
    prompt     base seconds, and more for each token that is not cached, for each request that the model answers beside
               it and for each that other models of the machine do, all as they are when it begins. So prompts slow each
               other down as much as they were recorded to (continuous batching mixes their chunks with others' tokens:
               Orca, Yu et al. 2022; Sarathi-Serve, Agrawal et al. 2024), without a word on how.
    answer     seconds for each further token, likewise.
    length     an answer is as long as it was recorded, whoever gives it.
    faults     a model fails the share of requests that it was recorded to fail.

Models that are replaced by one another differ in these numbers and in nothing else. Where the recording has no
high load, nothing is known of what one would do.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from routing.replay.records import Arrival, Facts, Outcome
from routing.replay.regression import weights

LEAST_ANSWERS = 30
"""Of a model, or nothing is known of how quick it is."""


class Load(msgspec.Struct, frozen=True, gc=False):
    """Requests that are being answered while another one begins."""

    beside: int = 0
    """By the same model."""
    elsewhere: int = 0
    """By the machine's other models."""


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """Of one model: seconds, none of them negative."""

    prompt: tuple[float, float, float, float]
    """Of any prompt, and for each token that is not cached, each request beside it, each elsewhere."""
    token: tuple[float, float, float]
    """Of each further token, and for each request beside it, each elsewhere."""
    failed: float = 0.0
    """The share of its requests."""
    answers: int = 0
    """That it was fitted to."""

    def prefill(self, tokens: int, load: Load) -> float:
        base, each, beside, elsewhere = self.prompt
        return base + tokens * each + load.beside * beside + load.elsewhere * elsewhere

    def each_token(self, load: Load) -> float:
        base, beside, elsewhere = self.token
        return base + load.beside * beside + load.elsewhere * elsewhere


class Fitted(msgspec.Struct, frozen=True, kw_only=True):
    services: Mapping[str, Service]
    unknown: Mapping[str, int]
    """Models that have answered too few requests, and how many."""


def fit(arrivals: Iterable[Arrival], models: Mapping[str, Facts]) -> Fitted:
    """Of each model that was ready."""
    all_of = list(arrivals)
    answered = [each for each in all_of if each.outcome is Outcome.ANSWERED and each.prompt_tokens]
    of_model: dict[str, list[tuple[Arrival, Load]]] = {model: [] for model in models}
    for arrival, load in zip(answered, loads(answered), strict=True):
        if arrival.model in of_model:
            of_model[arrival.model].append((arrival, load))
    services, unknown = {}, {}
    for model, own in of_model.items():
        if len(own) < LEAST_ANSWERS:
            unknown[model] = len(own)
        else:
            failed = sum(each.outcome is Outcome.FAILED and each.model == model for each in all_of)
            services[model] = _service(own, failed / (failed + len(own)))
    return Fitted(services=services, unknown=unknown)


def _service(answered: Sequence[tuple[Arrival, Load]], failed: float) -> Service:
    base, each, beside, elsewhere = weights(
        [(1.0, one.prompt_tokens - one.held_tokens, load.beside, load.elsewhere) for one, load in answered],
        [one.prefill_seconds or one.first_token_seconds for one, _ in answered],
    )
    going_on = [(one, load) for one, load in answered if one.token_seconds and one.choices == 1]
    token = [0.0, 0.0, 0.0]
    if going_on:
        token = weights(
            [(1.0, load.beside, load.elsewhere) for _, load in going_on], [one.token_seconds for one, _ in going_on]
        )
    return Service(
        prompt=(base, each, beside, elsewhere),
        token=(token[0], token[1], token[2]),
        failed=failed,
        answers=len(answered),
    )


def loads(answered: Sequence[Arrival]) -> list[Load]:
    """What was being answered, of these, when each one's prompt began to be computed."""
    found = [Load()] * len(answered)
    running: dict[str, int] = {}
    total = 0
    ends: list[tuple[float, str]] = []
    for number in sorted(range(len(answered)), key=lambda each: answered[each].begin):
        arrival = answered[number]
        while ends and ends[0][0] <= arrival.begin:
            _, model = heapq.heappop(ends)
            running[model] -= 1
            total -= 1
        beside = running.get(arrival.model, 0)
        found[number] = Load(beside, total - beside)
        running[arrival.model] = beside + 1
        total += 1
        heapq.heappush(ends, (arrival.end, arrival.model))
    return found
