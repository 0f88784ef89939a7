"""What the scheduler moves about: sequences, and the pools of KV cells that hold them."""

from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum

from inference.engine.speculation import Lookup


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
    weight: float = 1.0
    """Its tenant's share, where tenants take turns."""
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
    stops: tuple[int, ...] = ()
    """Chunks of its prompt end there, at multiples of ``BLOCK_TOKENS``: its state is wanted as it is there."""
    allowed: int | None = None
    """So many tokens it may hold for now: it waits, in its cells, until that is raised. None: up to its limit."""
    long: bool = False
    """It has filled a lane once, so that it waits for the long pool."""
    lookup: Lookup | None = None
    """Guesses its next tokens; made when it has generated one."""

    @property
    def pending(self) -> int:
        return len(self.tokens) - self.computed

    @property
    def held(self) -> bool:
        """It must not get another token yet."""
        return self.allowed is not None and len(self.tokens) >= self.allowed
