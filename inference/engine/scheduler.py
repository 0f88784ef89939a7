"""Which tokens of which sequences go into the next decode: pure, driven by the engine, tested by hand.

KV cells live in two pools. *Lanes* give each of many sequences its own short space: a token attends over its own
sequence's cells only, so sixteen short conversations do not slow each other down. The *long pool* is one space shared
by few sequences, as long as the model's context; it is made only when first needed. A sequence starts in a lane if it
fits one; when it has filled the lane it moves, state and all, to the long pool.

A step is two decisions. :meth:`Scheduler.admit` says who holds cells:

1. **Expire** what has waited beyond its time.
2. **Preempt** in the long pool when its sequences, each a token longer every step, would overflow it: those of the
   lowest priority, the youngest first, never the last one. Their KV is saved, they wait again, and resume from it.
3. **Move** what has filled its lane to the long pool; if there is no room, it is preempted and waits there.
4. **Place** waiting sequences, each in the pool that it needs, while there is room: see *order*.

Between the two the engine restores what the cache holds of those who were placed, so that :meth:`Scheduler.batch`
knows what is left to compute:

5. **Decode** one token of every sequence whose prompt is computed, and that is allowed another one.
6. **Prefill** with what the step's budget has left: while others decode ``prefill_beside_decode`` tokens for each
   prompt (so that one long prompt never stalls them, and many short ones do not queue up behind each other), but for
   all prompts of a tenant together where others' sequences decode (so that many of mine stall only mine); else up to
   the whole batch. First come the tenants that have had the fewest tokens of late: whoever floods us computes when
   they leave something. Of a tenant's prompts the oldest gets a block, so that none starves, then those of which the
   least is left: 16 that are computed evenly would all have their first token when the last one has it. Chunks end at
   multiples of the cache's block, so that a prompt is cut the same way whether its beginning was cached or not.
7. **Guess**, where no prompt is waiting to be computed: tokens that probably follow are computed behind the one that is
   known (:mod:`inference.engine.speculation`), if that is cheaper than a step for each.

*Order* of waiting sequences: tenants by priority, where waiting raises it, so that nothing starves; among equals they
take turns (:mod:`inference.engine.turns`), and within a tenant it is first come, first served. Within a pool nobody
overtakes: a smaller request behind must not starve the one that does not fit yet. Where there are several tenants, the
last few lanes are for those that have none, so that they need not wait for somebody else's answer to end.

The long pool never deadlocks: the sequence that is preempted last, the one of highest priority and greatest age, runs
alone if need be, and alone each fits (:meth:`Scheduler.add` refuses what does not).
"""

import heapq
from collections import Counter, deque
from dataclasses import dataclass, field

from inference.engine.cache.names import BLOCK_TOKENS
from inference.engine.sequences import Limits, Pool, Sequence
from inference.engine.speculation import MOST_DRAFT_TOKENS, Lookup, draft_tokens
from inference.engine.turns import Turns, effective_priority

HEADROOM_TOKENS = 64
"""Cells of the long pool kept free for each sequence in it when another is placed: room to grow without a preemption
at once."""

LANES_PER_SPARE = 16
"""Where there are several tenants, one of so many lanes is kept free for who has none."""


@dataclass(frozen=True, slots=True)
class Preemption:
    """Save the sequence's state, then free its cells. It waits again and holds none any more."""

    sequence: Sequence
    pool: Pool
    slot: int
    computed: int
    """So many tokens of it have their KV there."""


@dataclass(frozen=True, slots=True)
class Move:
    """Copy the sequence's state from its lane to its place in the long pool."""

    sequence: Sequence
    lane: int


@dataclass(slots=True)
class Admission:
    """What :meth:`Scheduler.admit` decided, to be done in this order."""

    expired: list[Sequence] = field(default_factory=list)
    preempted: list[Preemption] = field(default_factory=list)
    moved: list[Move] = field(default_factory=list)
    placed: list[Sequence] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Compute ``count`` tokens of a sequence, from ``sequence.computed`` on."""

    sequence: Sequence
    count: int
    guesses: tuple[int, ...] = ()
    """Tokens to be computed behind them that may turn out wrong; their KV must then be removed again."""

    @property
    def wants_output(self) -> bool:
        """The chunk reaches the last known token: the next one is chosen from its logits, and more of those of its
        guesses."""
        return self.count == self.sequence.pending


Batch = dict[Pool, list[Chunk]]


class Scheduler:
    def __init__(self, limits: Limits, *, draft_cost: float = 1.0) -> None:
        """``draft_cost``: what a guessed token adds to the time of a step, as a part of it. 1: nothing is guessed."""
        self.limits = limits
        self._draft_cost = draft_cost
        self._waiting: dict[Sequence, None] = {}
        """In the order in which they came; a dict, since thousands may wait, and leave all at once."""
        self._running: list[Sequence] = []
        self._free = {Pool.LANES: list(range(limits.lanes)), Pool.LONG: list(range(limits.long_slots))}
        self._turns = Turns()

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def held(self) -> bool:
        """Some run, and all of them must wait to be allowed more: nothing is to be computed before."""
        return bool(self._running) and all(sequence.held for sequence in self._running)

    @property
    def cells(self) -> int:
        """Cells that hold KV now."""
        return sum(sequence.computed for sequence in self._running)

    def add(self, sequence: Sequence) -> None:
        if not 0 < len(sequence.tokens) <= sequence.limit <= self.limits.context_tokens:
            raise ValueError(f"a sequence of {len(sequence.tokens)} tokens, limit {sequence.limit}, fits nowhere")
        self._waiting[sequence] = None
        self._turns.enter(sequence.tenant)

    def remove(self, sequence: Sequence) -> None:
        """The sequence has ended, whatever its state; its cells are the caller's to clear."""
        if sequence.pool is None:
            del self._waiting[sequence]
        else:
            self._running.remove(sequence)
            self._release(sequence)
        self._turns.leave(sequence.tenant)

    def generated(self, sequence: Sequence, token: int) -> None:
        """``token`` was chosen to be its next one, which its tenant is charged for."""
        sequence.tokens.append(token)
        self._turns.charge(sequence.tenant, 1)
        self._turns.computed(sequence, 1)
        if sequence.lookup is not None:
            sequence.lookup.appended()
        elif self._draft_cost < 1.0:
            sequence.lookup = Lookup(sequence.tokens)

    # --- Who holds cells -------------------------------------------------------------------------------------------

    def admit(self, now: float) -> Admission:
        admission = Admission()
        self._expire(admission, now)
        self._preempt_overflow(admission, now)
        self._move_full_lanes(admission)
        for pool in Pool:
            self._place_waiting(admission, pool, now)
        return admission

    def _expire(self, admission: Admission, now: float) -> None:
        admission.expired = [each for each in self._waiting if _expires(each, now)]
        for sequence in admission.expired:
            self.remove(sequence)

    def _preempt_overflow(self, admission: Admission, now: float) -> None:
        running = [sequence for sequence in self._running if sequence.pool is Pool.LONG]
        running.sort(key=lambda each: (effective_priority(each, now), -each.arrived))
        cells = sum(len(sequence.tokens) for sequence in running)
        for sequence in running[:-1]:
            if cells <= self.limits.long_tokens:
                return
            cells -= len(sequence.tokens)
            self._preempt(admission, sequence)

    def _move_full_lanes(self, admission: Admission) -> None:
        for sequence in list(self._running):
            if self._has_cell(sequence):
                continue
            sequence.long = True
            if self._long_has_room(sequence):
                lane = sequence.slot
                self._release(sequence)
                self._occupy(sequence, Pool.LONG)
                admission.moved.append(Move(sequence, lane))
            else:
                self._preempt(admission, sequence)

    def _preempt(self, admission: Admission, sequence: Sequence) -> None:
        assert sequence.pool is not None
        admission.preempted.append(Preemption(sequence, sequence.pool, sequence.slot, sequence.computed))
        self._running.remove(sequence)
        self._release(sequence)
        sequence.pool, sequence.slot, sequence.computed = None, -1, 0
        self._waiting[sequence] = None

    def _place_waiting(self, admission: Admission, pool: Pool, now: float) -> None:
        if not self._free[pool]:
            return
        waiting = {sequence: None for sequence in self._waiting if self._pool_for(sequence) is pool}
        while waiting and self._free[pool]:
            if len(self._free[pool]) <= self._spare(pool, now):
                served = {sequence.tenant for sequence in self._running if sequence.pool is pool}
                waiting = {sequence: None for sequence in waiting if sequence.tenant not in served}
                if not waiting:
                    return
            sequence = self._turns.next(waiting, now)
            if pool is Pool.LONG and not self._long_has_room(sequence):
                return
            if not sequence.begun:
                self._turns.charge(sequence.tenant, len(sequence.tokens))
            sequence.begun = True
            self._turns.placed(sequence.tenant, now)
            del waiting[sequence], self._waiting[sequence]
            self._occupy(sequence, pool)
            self._running.append(sequence)
            admission.placed.append(sequence)

    def _spare(self, pool: Pool, now: float) -> int:
        """So many slots are kept for tenants that have none."""
        return self.limits.lanes // LANES_PER_SPARE if pool is Pool.LANES and self._turns.several(now) else 0

    def _pool_for(self, sequence: Sequence) -> Pool:
        return Pool.LONG if sequence.long or len(sequence.tokens) > self.limits.lane_tokens else Pool.LANES

    def _has_cell(self, sequence: Sequence) -> bool:
        return sequence.pool is Pool.LONG or len(sequence.tokens) <= self.limits.lane_tokens

    def _long_has_room(self, sequence: Sequence) -> bool:
        """Whether it fits now, with room to grow for all; alone it always does."""
        others = [len(each.tokens) for each in self._running if each.pool is Pool.LONG]
        if not self._free[Pool.LONG] or not others:
            return bool(self._free[Pool.LONG])
        growth = HEADROOM_TOKENS * (len(others) + 1)
        return sum(others) + len(sequence.tokens) + growth <= self.limits.long_tokens

    def _occupy(self, sequence: Sequence, pool: Pool) -> None:
        sequence.pool = pool
        # The lowest free slot, so that those in use lie side by side (see `batch`).
        sequence.slot = heapq.heappop(self._free[pool])

    def _release(self, sequence: Sequence) -> None:
        assert sequence.pool is not None
        heapq.heappush(self._free[sequence.pool], sequence.slot)

    # --- Who computes ----------------------------------------------------------------------------------------------

    def batch(self) -> Batch:
        """The chunks of the next decode, by pool; none when there is nothing that can run."""
        running = [sequence for sequence in self._running if not sequence.held]
        decoding = [sequence for sequence in running if sequence.pending == 1]
        prompts = [sequence for sequence in running if sequence.pending > 1]
        guesses = {} if prompts else self._guesses(decoding)
        chunks = [Chunk(sequence, 1, guesses.get(sequence, ())) for sequence in decoding]
        chunks += self._prefill(prompts, self._prefill_budget(prompts, decoding))
        batch: Batch = {pool: [] for pool in Pool}
        for chunk in chunks:
            assert chunk.sequence.pool is not None
            batch[chunk.sequence.pool].append(chunk)
        for of_pool in batch.values():
            # llama.cpp computes sequences of split cells together only where their ids follow one another, ascending.
            # In any other order a batch falls apart into several: 176 instead of 84 ms for 16 sequences.
            of_pool.sort(key=lambda chunk: chunk.sequence.slot)
        return batch

    def _guesses(self, decoding: list[Sequence]) -> dict[Sequence, tuple[int, ...]]:
        """Equally many for all of a pool: a batch also falls apart where sequences have more and fewer tokens in it."""
        guesses: dict[Sequence, tuple[int, ...]] = {}
        for pool in Pool:
            sequences = [sequence for sequence in decoding if sequence.pool is pool]
            count = min((self._guess_count(each, len(sequences)) for each in sequences), default=0)
            if pool is Pool.LONG:
                free = self.limits.long_tokens - sum(len(each.tokens) for each in sequences)
                count = min(count, free // max(1, len(sequences)))
            if count > 0:
                guesses |= {sequence: sequence.lookup.guess(count) for sequence in sequences if sequence.lookup}
        return guesses

    def _guess_count(self, sequence: Sequence, together: int) -> int:
        """How many are worth computing where so many sequences are in the step, and have room."""
        if sequence.lookup is None or not sequence.lookup.found:
            return 0
        known = len(sequence.tokens)
        most = sequence.limit if sequence.allowed is None else min(sequence.limit, sequence.allowed)
        room = min(
            most - known - 1,
            self.limits.batch_tokens // together - 1,
            self.limits.lane_tokens - known if sequence.pool is Pool.LANES else MOST_DRAFT_TOKENS,
        )
        return min(draft_tokens(sequence.lookup.accuracy, together, self._draft_cost), room)

    def _prefill_budget(self, prompts: list[Sequence], decoding: list[Sequence]) -> int:
        # Pools are computed one after the other: beside the fuller one there is room for a block in any case.
        room = self.limits.batch_tokens - max(sum(each.pool is pool for each in decoding) for pool in Pool)
        if not decoding:
            return room
        decode = {sequence.tenant for sequence in decoding}
        of_tenant = Counter(sequence.tenant for sequence in prompts)
        shares = sum(count if decode == {tenant} else 1 for tenant, count in of_tenant.items())
        return min(self.limits.prefill_beside_decode * shares, room)

    def _prefill(self, prompts: list[Sequence], budget: int) -> list[Chunk]:
        """Block after block to the tenant that has had least, until the budget is spent; within a tenant one to each:
        the oldest first, then by what is left."""
        queues: dict[str, deque[Sequence]] = {}
        for sequence in prompts[:1] + sorted(prompts[1:], key=lambda each: each.pending):
            queues.setdefault(sequence.tenant, deque()).append(sequence)
        had = self._turns.had()
        counts = dict.fromkeys(prompts, 0)
        while queues:
            tenant = min(queues, key=had.__getitem__)
            sequence = queues[tenant].popleft()
            if count := _block_count(sequence, counts[sequence], budget):
                counts[sequence] += count
                budget -= count
                had[tenant] += count / sequence.weight
                queues[tenant].append(sequence)
            elif not queues[tenant]:
                del queues[tenant]
        chunks = [Chunk(sequence, count) for sequence, count in counts.items() if count]
        for chunk in chunks:
            self._turns.computed(chunk.sequence, chunk.count)
        return chunks


def _expires(sequence: Sequence, now: float) -> bool:
    return sequence.start_by is not None and sequence.start_by <= now and not sequence.begun


def _block_count(sequence: Sequence, taken: int, budget: int) -> int:
    """Tokens up to the next border of blocks, or up to the end of the prompt; 0 if the budget does not reach there, or
    the chunk is to stop where it is."""
    at = sequence.computed + taken
    if taken and at in sequence.stops:
        return 0
    count = min(BLOCK_TOKENS - at % BLOCK_TOKENS, sequence.pending - taken)
    return count if count <= budget else 0
