"""A recording, made ready to be simulated again and again."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from routing.config import Routing
from routing.replay.records import Arrival, Facts, Fleet, Outcome, Recording
from routing.replay.server import Beginning, Job
from routing.replay.service import Fitted, fit


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """A recording, ready to be simulated."""

    jobs: tuple[Job, ...]
    fitted: Fitted
    models: Mapping[str, Facts]
    """Those whose service is known."""
    held: Mapping[str, tuple[tuple[Beginning, ...], ...]]
    """By model, the beginnings that it held when the recording began, as far as that shows."""
    fleets: tuple[Fleet, ...]
    routing: Routing
    route: str | None
    """Whose strategy is in question. None: all routes'."""
    left_out: int
    """Requests that were not answered, or by a model of which too little is known."""


def trace_of(recording: Recording, route: str | None = None) -> Trace:
    """``route``: only its requests count, and only its strategy is changed."""
    fitted = fit(recording.arrivals, recording.models)
    models = {model: recording.models[model] for model in fitted.services}
    usable = [
        each
        for each in recording.arrivals
        if each.outcome is Outcome.ANSWERED and each.prompt_tokens and each.model in models
    ]
    jobs = tuple(_jobs(usable, route))
    return Trace(
        jobs=jobs,
        fitted=fitted,
        models=models,
        held=held_before(jobs),
        fleets=recording.fleets,
        routing=recording.routing,
        route=route,
        left_out=len(recording.arrivals) - len(usable),
    )


def _jobs(arrivals: Sequence[Arrival], route: str | None) -> Iterable[Job]:
    chains = [each.chain for each in arrivals]
    answers = _answers(arrivals, chains)
    for number, (arrival, chain) in enumerate(zip(arrivals, chains, strict=True)):
        yield Job(
            number=number,
            arrival=arrival,
            links=chain,
            beginnings=tuple(map(Beginning, chain, arrival.ends)),
            answer=answers.get(number),
            counts=not arrival.named and (route is None or arrival.route == route),
        )


def held_before(jobs: Iterable[Job]) -> dict[str, tuple[tuple[Beginning, ...], ...]]:
    """By model. What a model need not compute of the first prompt that begins so, it has computed before."""
    seen: dict[str, set[bytes]] = {}
    found: dict[str, list[tuple[Beginning, ...]]] = {}
    for job in jobs:
        known = seen.setdefault(job.arrival.model, set())
        held = job.beginnings[: job.arrival.held]
        if held and held[0].link not in known:
            found.setdefault(job.arrival.model, []).append(held)
        known.update(job.links)
    return {model: tuple(chains) for model, chains in found.items()}


def _answers(arrivals: Sequence[Arrival], chains: Sequence[tuple[bytes, ...]]) -> dict[int, Beginning]:
    """The link of a prompt and its answer is never recorded with its own request. But a conversation's next turn begins
    with it: where a later prompt has all of an earlier one and at least two links more, the first of these is the
    answer."""
    newest: dict[bytes, int] = {}
    found: dict[int, Beginning] = {}
    for number, (arrival, chain) in enumerate(zip(arrivals, chains, strict=True)):
        for place, link in enumerate(chain[:-2]):
            earlier = newest.pop(link, None)
            if earlier is not None:
                found[earlier] = Beginning(chain[place + 1], arrival.ends[place + 1])
        if chain:
            newest[chain[-1]] = number
    return found
