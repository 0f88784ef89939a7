"""Which tokens of which inputs are embedded in the next turn: pure, driven by :mod:`embeddings`, tested by hand.

A *turn* is a bounded number of tokens, so that text which is generated beside it waits no longer than for a chunk of a
prompt. Two kinds of models:

- In an **encoder** every token sees the whole input, so an input is computed at once: a turn takes as many whole inputs
  as fit, in one batch. One that is longer than the batch needs a larger context: the turn says so (``grow_to``).
- In a **decoder** a token sees those before it, so inputs are computed in chunks, several side by side, their KV kept
  until the last. What is pooled from the last token alone costs no vectors (and no logits, which llama.cpp computes
  beside each of them) for the tokens before it: they only *advance*, and the last tokens of all inputs that come so
  far in this turn are *pooled* in one small batch.

Who comes next: the tenant that was given the fewest tokens; of its requests the one of highest priority, of those the
one that was given the fewest tokens. So a request of one line waits for a few turns at most beside one of two thousand.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """Of the context that embeddings are computed in."""

    whole: bool
    """Inputs are computed in one piece: an encoder."""
    last_only: bool = False
    """The last token's vector is the input's."""
    slots: int
    """Inputs that are computed side by side, at most."""
    batch_tokens: int
    """In one call to llama.cpp, at most."""
    tokens: int
    """Cells: of all inputs in the slots together. An encoder keeps none, so it is ``batch_tokens`` there."""


@dataclass(slots=True, eq=False)
class Input:
    """One text to embed. Owned by :class:`Batches` once added."""

    owner: Hashable
    index: int
    """Its place in the request."""
    tokens: Sequence[int]
    slot: int = -1
    computed: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    input: Input
    count: int
    """So many tokens after those that are computed."""

    @property
    def is_last(self) -> bool:
        return self.input.computed + self.count == len(self.input.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What to compute now: first ``advance``, then ``pooled``, each in one batch."""

    advance: tuple[Chunk, ...] = ()
    pooled: tuple[Chunk, ...] = ()
    grow_to: int | None = None
    """Nothing can be computed before there is a context for an input of so many tokens."""


@dataclass(slots=True, eq=False)
class _Request:
    owner: Hashable
    tenant: str
    weight: float
    priority: int
    number: int
    waiting: list[Input]
    """The next one last."""
    given: int = 0


@dataclass(slots=True)
class Batches:
    """All inputs that are not embedded yet. The caller reports what it computed with :meth:`done`."""

    capacity: Capacity
    _requests: dict[Hashable, _Request] = field(default_factory=dict)
    _given: dict[str, float] = field(default_factory=dict)
    """Tokens that each tenant with inputs here was given, divided by its weight."""
    _running: list[Input] = field(default_factory=list)
    _arrivals: int = 0

    @property
    def running(self) -> set[Hashable]:
        """Owners of the inputs in the slots."""
        return {input.owner for input in self._running}

    @property
    def untouched(self) -> int:
        """Requests of which nothing was begun."""
        return sum(1 for request in self._requests.values() if not request.given)

    def add(
        self, owner: Hashable, inputs: Sequence[Sequence[int]], *, tenant: str, priority: int, weight: float = 1.0
    ) -> None:
        """Take in a request's inputs, none of them empty. ``weight``: its tenant's share."""
        self._arrivals += 1
        # A tenant that was away does not get back what it did not use.
        self._given.setdefault(tenant, min(self._given.values(), default=0.0))
        waiting = [Input(owner, index, tokens) for index, tokens in enumerate(inputs)]
        self._requests[owner] = _Request(owner, tenant, weight, priority, self._arrivals, waiting[::-1])

    def remove(self, owner: Hashable) -> list[Input]:
        """Forget a request; returns what of it was in slots, whose cells are to be freed."""
        if request := self._requests.pop(owner, None):
            self._forget_tenant(request.tenant)
        dropped = [input for input in self._running if input.owner is owner]
        self._running = [input for input in self._running if input.owner is not owner]
        return dropped

    def plan(self, budget: int) -> Turn:
        """The next turn, of about ``budget`` tokens. Inputs that begin now have their slots."""
        budget = min(budget, self.capacity.batch_tokens)
        return self._plan_whole(budget) if self.capacity.whole else self._plan_chunks(budget)

    def done(self, chunk: Chunk) -> bool:
        """A chunk is computed. True: it was the input's last, whose slot is free again."""
        last = chunk.is_last
        chunk.input.computed += chunk.count
        if last:
            self._running.remove(chunk.input)
        return last

    # --- Encoders ----------------------------------------------------------------------------------------------------

    def _plan_whole(self, budget: int) -> Turn:
        chosen: list[Chunk] = []
        left = budget
        while len(chosen) < self.capacity.slots and (request := self._next()):
            length = len(request.waiting[-1].tokens)
            if length > self.capacity.batch_tokens and not chosen:
                return Turn(grow_to=length)
            if length > left and chosen:
                break
            # An input that is longer than the budget is computed alone: it can't be cut.
            chosen.append(Chunk(self._begin(request, slot=len(chosen)), length))
            left -= length
        return Turn(pooled=tuple(chosen))

    # --- Decoders ----------------------------------------------------------------------------------------------------

    def _plan_chunks(self, budget: int) -> Turn:
        if grow_to := self._admit(budget):
            return Turn(grow_to=grow_to)
        advance: list[Chunk] = []
        pooled: list[Chunk] = []
        left = budget
        for input in self._running:
            rest = len(input.tokens) - input.computed
            before_last = rest - 1 if self.capacity.last_only else 0
            if count := min(before_last, left):
                advance.append(Chunk(input, count))
                left -= count
            if count < before_last:
                continue
            if count := 1 if self.capacity.last_only else min(rest, left):
                pooled.append(Chunk(input, count))
                left -= count
        return Turn(advance=tuple(advance), pooled=tuple(pooled))

    def _admit(self, budget: int) -> int | None:
        """Fill the slots while there are cells, and tokens of ``budget`` that those who run leave over.

        Returns the length of an input that no room can be made for in this context.
        """
        cells = self.capacity.tokens - sum(len(input.tokens) for input in self._running)
        left = budget - sum(len(input.tokens) - input.computed for input in self._running)
        free = sorted(set(range(self.capacity.slots)) - {input.slot for input in self._running}, reverse=True)
        while free and left > 0 and (request := self._next()):
            length = len(request.waiting[-1].tokens)
            if length > cells:
                # Those who run end first; then, if it is too long even for the empty context, a larger one is made.
                return length if not self._running else None
            cells -= length
            left -= length
            self._begin(request, free.pop())
        return None

    # --- Whose turn it is --------------------------------------------------------------------------------------------

    def _next(self) -> _Request | None:
        return min(
            self._requests.values(),
            key=lambda request: (self._given[request.tenant], -request.priority, request.given, request.number),
            default=None,
        )

    def _begin(self, request: _Request, slot: int) -> Input:
        input = request.waiting.pop()
        input.slot = slot
        request.given += len(input.tokens)
        self._given[request.tenant] += len(input.tokens) / request.weight
        self._running.append(input)
        if not request.waiting:
            del self._requests[request.owner]
            self._forget_tenant(request.tenant)
        return input

    def _forget_tenant(self, tenant: str) -> None:
        if not any(request.tenant == tenant for request in self._requests.values()):
            del self._given[tenant]
