"""What the engine works on, and the events that reach it."""

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from inference.engine.answers import Plan
from inference.engine.cache.blocks import Missing
from inference.engine.cache.names import Chain
from inference.engine.cache.state import Bytes, Prefix
from inference.engine.embeddings import EmbeddingJob
from inference.engine.held import Answer
from inference.engine.job_spans import Lookup
from inference.engine.output import Output
from inference.engine.sampling import Sampler
from inference.engine.sequences import Sequence
from inference.protocol import CacheBudget, Generate, WorkerToGateway

Emit = Callable[[list[tuple["Job | EmbeddingJob | None", WorkerToGateway]]], None]
"""Takes what one step produced, each message with its job; a message without one goes to every gateway."""


@dataclass(slots=True, eq=False, kw_only=True)
class Job:
    """One request, from its tokens to its last message."""

    peer: Hashable
    """The connection that it came on."""
    request: Generate
    tokens: list[int]
    """The prompt."""
    limit: int
    """Most tokens that prompt and completion of each choice may have together."""
    plan: Plan = field(default_factory=Plan)
    """How its tokens are chosen and read."""
    shared_tokens: int = 0
    """So many of the prompt's first tokens were declared shareable."""
    granted: int | None = None
    """What prompt and all choices together may come to for now. None: there is no bound."""
    wants: bool = False
    """More was asked for, and there is no answer yet."""
    arrived: float = field(default_factory=time.monotonic)
    started: float | None = None
    first_token: float | None = None
    lookup: Lookup | None = None
    """Of its prompt in the cache, once it had its turn."""
    cached_tokens: int = 0
    completion_tokens: int = 0

    @property
    def id(self) -> int:
        return self.request.id

    @property
    def allowed(self) -> int | None:
        """Tokens that each choice may hold for now, the prompt included; None: up to its limit."""
        if self.granted is None:
            return None
        return len(self.tokens) + max(0, self.granted - len(self.tokens)) // self.request.n


AnyJob = Job | EmbeddingJob


@dataclass(slots=True, eq=False)
class Choice:
    """One answer to a request: its tokens, how the next one is chosen, and what becomes of them."""

    job: Job
    index: int
    sequence: Sequence
    sampler: Sampler
    output: Output
    chain: Chain | None
    """Names of its blocks; None: nothing of it is cached."""
    answer: Answer = field(default_factory=Answer)
    complete: bool = False
    """It came to its end, and its client has all of it."""
    inherited: Prefix = field(default_factory=Prefix)
    """The prompt's KV, of the choice that computed it, until it is restored."""
    fetching: threading.Timer | None = None
    """Ends the wait for the disk."""
    pinned: list[bytes] = field(default_factory=list)
    """Blocks that were fetched for it and wait in RAM."""
    saved: int = 0
    """So many of the prompt's tokens were computed when its KV was saved last."""
    scheduled: bool = False
    """The scheduler has its sequence; it hasn't while blocks are fetched."""

    def take_inherited(self) -> Prefix:
        """It is held only until it is in cells."""
        inherited, self.inherited = self.inherited, Prefix()
        return inherited


@dataclass(frozen=True, slots=True)
class Cancel:
    job: AnyJob


@dataclass(frozen=True, slots=True)
class Granted:
    """The job may now come to so many tokens in all; ``last``: and to no more ever."""

    job: Job
    tokens: int
    last: bool


@dataclass(frozen=True, slots=True)
class Fetched:
    """What the disk had of a choice's prompt."""

    choice: Choice
    missing: Missing
    payloads: list[tuple[bytes, Bytes]] | None
    """None: it took too long, and may still come."""


class DiskChanged:
    """The SSD tier's report has changed."""


class Stop:
    """The thread is to end."""


Event = Job | EmbeddingJob | Cancel | Granted | CacheBudget | Fetched | DiskChanged | Stop
