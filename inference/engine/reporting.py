"""What every gateway is told of the engine, beside its answers: its load, its cache, the prompts that it holds."""

import time
from collections.abc import Callable, Iterator, Sequence

from inference.engine.cache.names import Chain
from inference.engine.held import Held, answer_links, prompt_links
from inference.engine.jobs import Choice
from inference.protocol import CacheReport, HeldPrefixes, WorkerLoad

Witness = Callable[[Chain, Sequence[int], int], bytes | None]
"""Of a chain and its tokens, the name of what shows that the KV of so many is kept."""

_REPORT_SECONDS = 0.25
"""The cache is reported so often at most, while it changes."""


class Reporting:
    """Owned by the engine's thread. Says only what has changed."""

    def __init__(self, holds: Callable[[bytes], bool], witness: Witness) -> None:
        """``holds``: whether a block, by its name, is in any tier."""
        self._held = Held(holds)
        self._witness = witness
        self._load = WorkerLoad(running=0, waiting=0)
        self._cache = CacheReport()
        self._due = 0.0

    def hurry(self) -> None:
        """The next report of the cache does not wait for its time."""
        self._due = 0.0

    def changes(
        self, load: WorkerLoad, cache: Callable[[], CacheReport], *, idle: bool
    ) -> Iterator[WorkerLoad | CacheReport | HeldPrefixes]:
        """
        Args:
            cache: makes its report, which takes a moment, so it is asked for when one is due.
            idle: nobody waits for the engine.
        """
        if load != self._load:
            self._load = load
            yield load
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + _REPORT_SECONDS
        report = cache()
        if report != self._cache:
            self._cache = report
            yield report
        self._held.check(report, idle=idle)
        if changes := self._held.take_changes():
            yield changes

    def note_prompt(self, choice: Choice) -> None:
        """Its prompt's KV was computed, or found."""
        job = choice.job
        for link, tokens in prompt_links(job.request, len(job.tokens)):
            self._note(choice, link, tokens)

    def note_answer(self, choice: Choice) -> None:
        """Its answer's KV was saved."""
        if choice.complete:
            # Thoughts stand before the answer in its KV, and are not in the conversation's next turn.
            tokens = len(choice.job.tokens) if choice.answer.thoughts else choice.sequence.computed
            for link in answer_links(choice.job.request, choice.answer):
                self._note(choice, link, tokens)

    def _note(self, choice: Choice, link: bytes, tokens: int) -> None:
        if choice.chain is None:
            return
        witness = self._witness(choice.chain, choice.sequence.tokens, min(tokens, choice.sequence.computed))
        if witness is not None:
            self._held.note(link, tokens, witness)
