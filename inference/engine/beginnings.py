"""How a choice begins: its sequence, its sampler, its names of blocks, and what the disk has of its prompt."""

import threading
from collections.abc import Callable

from inference.engine.jobs import Choice, Fetched, Job
from inference.engine.kv import Kv
from inference.engine.sampling import Sampler
from inference.engine.sequences import Sequence

_FETCH_SECONDS = 2.0
"""Of 1,000 tokens a working disk gives the blocks in 30 ms; computing them takes longer than 2 s on few machines."""


class Beginnings:
    """Owned by the engine's thread."""

    def __init__(self, kv: Kv) -> None:
        self._kv = kv

    def choice(self, job: Job, index: int = 0) -> Choice:
        """The ``index``-th answer to a request. Only the first may expire: once it was begun its client has text."""
        request = job.request
        sequence = Sequence(
            key=None,
            tokens=list(job.tokens),
            limit=job.limit,
            tenant=request.tenant,
            weight=request.weight,
            priority=request.priority,
            arrived=job.arrived,
            start_by=None if index or request.queue_seconds is None else job.arrived + request.queue_seconds,
            stops=self._kv.stops(len(job.tokens), job.shared_tokens),
            allowed=job.allowed,
        )
        output = job.plan.output()
        sampler = Sampler(request.sampling, job.tokens, choice=index, constraint=job.plan.constraint())
        sampler.lifted = output.thinking
        choice = Choice(job, index, sequence, sampler, output, self._kv.chain(request.partition, job.shared_tokens))
        sequence.key = choice
        return choice

    def fetch(self, choice: Choice, answer: Callable[[Fetched], None]) -> bool:
        """Have the disk bring what it has of the prompt and RAM has not: ``answer`` is called once or twice, by other
        threads. False: there is nothing to wait for."""
        missing = self._kv.missing(choice.chain, choice.job.tokens)
        if not missing.ids or not self._kv.fetch(missing, lambda found: answer(Fetched(choice, missing, found))):
            return False
        # A disk that hangs must not hang the request: without an answer the prompt is computed.
        timer = threading.Timer(_FETCH_SECONDS, lambda: answer(Fetched(choice, missing, None)))
        timer.daemon = True
        timer.start()
        choice.fetching = timer
        return True

    def take(self, event: Fetched, *, wanted: bool) -> None:
        """What was fetched waits in RAM, pinned, until the choice has it, if it still does not run."""
        if event.payloads is not None:
            self._kv.let_go(event.missing)
        if not wanted:
            return
        choice = event.choice
        assert choice.fetching is not None
        choice.fetching.cancel()
        choice.pinned = self._kv.fetched(event.missing, event.payloads or [])
