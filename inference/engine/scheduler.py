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

5. **Decode** one token of every sequence whose prompt is computed.
6. **Prefill** with what the step's budget has left: while others decode ``prefill_beside_decode`` tokens for each
   prompt (so that one long prompt never stalls them, and many short ones do not queue up behind each other), else up
   to the whole batch. The oldest prompt gets a block, so that none starves, then those of which the least is left: 16
   that are computed evenly would all have their first token when the last one has it. Chunks end at multiples of the
   cache's block, so that a prompt is cut the same way whether its beginning was cached or not.

*Order* of waiting sequences: the highest priority first, where waiting raises it by one every ``AGING_SECONDS``, so
that nothing starves. Among equals tenants take turns by deficit round robin (Shreedhar and Varghese 1995): every turn
earns a tenant ``QUANTUM_TOKENS``, a prompt costs its tokens and every generated token costs one, so that who sends ten
times as many or as long requests does not get ten times the tokens. Within a tenant: first come, first served. Within
a pool nobody overtakes: a smaller request behind must not starve the one that does not fit yet.

The long pool never deadlocks: the sequence that is preempted last, the one of highest priority and greatest age, runs
alone if need be, and alone each fits (:meth:`Scheduler.add` refuses what does not).
"""

import heapq
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from enum import Enum

BLOCK_TOKENS = 64
AGING_SECONDS = 5.0
QUANTUM_TOKENS = 512
MOST_DEBT_TOKENS = 16 * QUANTUM_TOKENS
"""A tenant that was alone for long owes no more than this when another one comes."""
HEADROOM_TOKENS = 64
"""Cells of the long pool kept free for each sequence in it when another is placed: room to grow without a preemption
at once."""


class Pool(Enum):
    LANES = "lanes"
    LONG = "long"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes in tokens, which are KV cells."""

    lanes: int
    lane_tokens: int
    long_slots: int
    long_tokens: int
    """0: the lanes hold the model's whole context and there is no long pool."""
    batch_tokens: int = 256
    prefill_beside_decode: int = 64

    @property
    def context_tokens(self) -> int:
        """The longest that one sequence can become."""
        return max(self.lane_tokens, self.long_tokens)


@dataclass(slots=True, eq=False)
class Sequence:
    """A choice's tokens on their way through the model. Owned by the scheduler once added."""

    key: Hashable
    tokens: list[int]
    """The prompt, then what was generated."""
    limit: int
    """Most tokens that it may come to hold, prompt included."""
    tenant: str = ""
    priority: int = 5
    arrived: float = 0.0
    """When it came, by the clock that :meth:`Scheduler.admit` is given."""
    start_by: float | None = None
    """It expires if it still waits then without ever having run."""
    computed: int = 0
    """How many of ``tokens`` have their KV in cells."""
    pool: Pool | None = None
    slot: int = -1
    begun: bool = False
    """It was placed once: it is charged for, and does not expire."""
    long: bool = False
    """It has filled a lane once, so that it waits for the long pool."""

    @property
    def pending(self) -> int:
        return len(self.tokens) - self.computed


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

    @property
    def wants_output(self) -> bool:
        """The chunk reaches the last known token: the next one is chosen from its logits."""
        return self.count == self.sequence.pending


Batch = dict[Pool, list[Chunk]]


class Scheduler:
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._waiting: list[Sequence] = []
        self._running: list[Sequence] = []
        self._free = {Pool.LANES: list(range(limits.lanes)), Pool.LONG: list(range(limits.long_slots))}
        self._turns = _Turns()

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def cells(self) -> int:
        """Cells that hold KV now."""
        return sum(sequence.computed for sequence in self._running)

    def add(self, sequence: Sequence) -> None:
        if not 0 < len(sequence.tokens) <= sequence.limit <= self.limits.context_tokens:
            raise ValueError(f"a sequence of {len(sequence.tokens)} tokens, limit {sequence.limit}, fits nowhere")
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """The sequence has ended, whatever its state; its cells are the caller's to clear."""
        if sequence.pool is None:
            self._waiting.remove(sequence)
        else:
            self._running.remove(sequence)
            self._release(sequence)
        self._turns.keep(each.tenant for each in (*self._waiting, *self._running))

    def generated(self, sequence: Sequence) -> None:
        """A token was generated for it, which its tenant is charged for."""
        self._turns.charge(sequence.tenant, 1)

    # --- Who holds cells -------------------------------------------------------------------------------------------

    def admit(self, now: float) -> Admission:
        admission = Admission()
        self._expire(admission, now)
        self._preempt_overflow(admission, now)
        self._move_full_lanes(admission)
        for pool in Pool:
            self._place_waiting(admission, pool, now)
        return admission

    def next_expiry(self) -> float | None:
        """When :meth:`admit` is due even if nothing happens."""
        return min((each.start_by for each in self._waiting if _may_expire(each) and each.start_by), default=None)

    def _expire(self, admission: Admission, now: float) -> None:
        admission.expired = [
            each for each in self._waiting if _may_expire(each) and each.start_by is not None and each.start_by <= now
        ]
        for sequence in admission.expired:
            self._waiting.remove(sequence)

    def _preempt_overflow(self, admission: Admission, now: float) -> None:
        running = [sequence for sequence in self._running if sequence.pool is Pool.LONG]
        running.sort(key=lambda each: (_effective_priority(each, now), -each.arrived))
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
        self._waiting.append(sequence)

    def _place_waiting(self, admission: Admission, pool: Pool, now: float) -> None:
        waiting = [sequence for sequence in self._waiting if self._pool_for(sequence) is pool]
        while waiting and self._free[pool]:
            sequence = self._turns.next(waiting, now)
            if pool is Pool.LONG and not self._long_has_room(sequence):
                return
            if not sequence.begun:
                self._turns.charge(sequence.tenant, len(sequence.tokens))
            sequence.begun = True
            waiting.remove(sequence)
            self._waiting.remove(sequence)
            self._occupy(sequence, pool)
            self._running.append(sequence)
            admission.placed.append(sequence)

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
        decoding = [sequence for sequence in self._running if sequence.pending == 1]
        chunks = [Chunk(sequence, 1) for sequence in decoding]
        prompts = [sequence for sequence in self._running if sequence.pending > 1]
        chunks += self._prefill(prompts, self._prefill_budget(len(prompts), len(decoding)))
        batch: Batch = {pool: [] for pool in Pool}
        for chunk in chunks:
            assert chunk.sequence.pool is not None
            batch[chunk.sequence.pool].append(chunk)
        for of_pool in batch.values():
            # llama.cpp computes sequences of split cells together only where their ids follow one another, ascending.
            # In any other order a batch falls apart into several: 176 instead of 84 ms for 16 sequences.
            of_pool.sort(key=lambda chunk: chunk.sequence.slot)
        return batch

    def _prefill_budget(self, prompts: int, decoding: int) -> int:
        room = self.limits.batch_tokens - decoding
        return min(self.limits.prefill_beside_decode * prompts, room) if decoding else room

    def _prefill(self, prompts: list[Sequence], budget: int) -> list[Chunk]:
        """A block each, the oldest first, then by what is left; and again, until the budget is spent."""
        prompts = prompts[:1] + sorted(prompts[1:], key=lambda each: each.pending)
        counts = dict.fromkeys(prompts, 0)
        while prompts and budget > 0:
            for sequence in prompts:
                count = _block_count(sequence, counts[sequence], budget)
                counts[sequence] += count
                budget -= count
            prompts = [
                each for each in prompts if counts[each] < each.pending and _block_count(each, counts[each], budget)
            ]
        return [Chunk(sequence, count) for sequence, count in counts.items() if count]


class _Turns:
    """Deficit round robin between tenants."""

    def __init__(self) -> None:
        self._deficits: dict[str, float] = {}
        """In the order of turns: who is first has it. Negative: the tenant owes tokens."""

    def next(self, waiting: list[Sequence], now: float) -> Sequence:
        """Whose turn it is, of those of the highest priority."""
        highest = max(_effective_priority(sequence, now) for sequence in waiting)
        heads: dict[str, Sequence] = {}
        for sequence in waiting:
            if _effective_priority(sequence, now) == highest:
                head = heads.get(sequence.tenant)
                if head is None or sequence.arrived < head.arrived:
                    heads[sequence.tenant] = sequence
        if len(heads) == 1:
            return next(iter(heads.values()))
        for tenant in heads:
            self._deficits.setdefault(tenant, 0.0)
        while True:
            tenant = next(each for each in self._deficits if each in heads)
            if self._deficits[tenant] >= _cost(heads[tenant]):
                return heads[tenant]
            self._deficits[tenant] = self._deficits.pop(tenant) + QUANTUM_TOKENS

    def charge(self, tenant: str, tokens: int) -> None:
        self._deficits[tenant] = max(self._deficits.get(tenant, 0.0) - tokens, -MOST_DEBT_TOKENS)

    def keep(self, tenants: Iterable[str]) -> None:
        """Forget the others: who has nothing here neither saves up nor owes."""
        present = set(tenants)
        for tenant in [each for each in self._deficits if each not in present]:
            del self._deficits[tenant]


def _effective_priority(sequence: Sequence, now: float) -> int:
    return sequence.priority + int((now - sequence.arrived) / AGING_SECONDS)


def _may_expire(sequence: Sequence) -> bool:
    return sequence.start_by is not None and not sequence.begun


def _cost(sequence: Sequence) -> int:
    return 0 if sequence.begun else len(sequence.tokens)


def _block_count(sequence: Sequence, taken: int, budget: int) -> int:
    """Tokens up to the next border of blocks, or up to the end of the prompt; 0 if the budget does not reach there."""
    at = sequence.computed + taken
    count = min(BLOCK_TOKENS - at % BLOCK_TOKENS, sequence.pending - taken)
    return count if count <= budget else 0
