"""One simulated model: requests wait for a lane, then their prompts are computed, then their answers, side by side."""

from collections import OrderedDict, deque
from collections.abc import Sequence

import msgspec

from routing.replay.records import Arrival, Facts
from routing.replay.service import Load, Service


class Beginning(msgspec.Struct, frozen=True, gc=False):
    """Of a prompt."""

    link: bytes
    tokens: int
    """From the prompt's start to its end."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """An arrival, with what the simulation asks of it again and again."""

    number: int
    arrival: Arrival
    links: tuple[bytes, ...]
    beginnings: tuple[Beginning, ...]
    """The shortest first."""
    answer: Beginning | None = None
    """Its prompt with its answer, as a later turn of the conversation has shown it."""
    counts: bool = True
    """Its times are of interest; others only make work."""

    @property
    def further_tokens(self) -> int:
        return max(0, self.arrival.completion_tokens // self.arrival.choices - 1)


class Cache:
    """The beginnings of prompts that need not be computed. The one that was used longest ago goes first, and a longer
    one before those that it begins with, as chains of KV blocks do."""

    def __init__(self, most_tokens: int | None) -> None:
        """``most_tokens``: that fit into it. None: all do."""
        self._most = most_tokens
        self._sizes: OrderedDict[bytes, int] = OrderedDict()
        """By link, what each adds to the beginning before it."""
        self.tokens = 0
        self.held: dict[bytes, int] = {}
        """By link, how many tokens the whole beginning is."""
        self._added: dict[bytes, None] = {}
        self._removed: dict[bytes, None] = {}

    def cached(self, beginnings: Sequence[Beginning]) -> int:
        """How many tokens of a prompt need not be computed."""
        return next((each.tokens for each in reversed(beginnings) if each.link in self.held), 0)

    def keep(self, beginnings: Sequence[Beginning]) -> None:
        """All of a prompt was computed, or found, just now."""
        before = 0
        for each in beginnings:
            if each.link not in self.held:
                self._sizes[each.link] = max(0, each.tokens - before)
                self.tokens += self._sizes[each.link]
                self.held[each.link] = each.tokens
                self._removed.pop(each.link, None)
                self._added[each.link] = None
            before = each.tokens
        for each in reversed(beginnings):
            self._sizes.move_to_end(each.link)
        while self._most is not None and self.tokens > self._most:
            self._evict()

    def take_news(self) -> tuple[list[bytes], list[bytes]]:
        """Links that were added and removed since it was asked last."""
        news = list(self._added), list(self._removed)
        self._added, self._removed = {}, {}
        return news

    @property
    def has_news(self) -> bool:
        return bool(self._added or self._removed)

    def _evict(self) -> None:
        link, size = self._sizes.popitem(last=False)
        self.tokens -= size
        del self.held[link]
        self._added.pop(link, None)
        self._removed[link] = None


class Begun(msgspec.Struct, frozen=True, gc=False):
    """A prompt's computing has begun."""

    job: Job
    seconds: float
    cached: int


class Machine:
    """That all simulated models run on."""

    def __init__(self) -> None:
        self.running = 0
        """Requests, of all models."""


class Server:
    """Steps of one model; whoever drives it keeps the time and calls back when what it says has taken so long."""

    def __init__(self, service: Service, facts: Facts, machine: Machine) -> None:
        self.service = service
        self.lanes = max(1, facts.lanes)
        self.cache = Cache(facts.cache_tokens)
        self.running = 0
        self._machine = machine
        self._kv_tokens = facts.kv_tokens
        self._waiting: deque[Job] = deque()
        """For a lane."""
        self._tokens = 0
        """Of running requests."""

    @property
    def cells(self) -> float:
        """RAM for KV that running requests need, of what there is."""
        return min(1.0, self._tokens / self._kv_tokens) if self._kv_tokens else 0.0

    def take(self, job: Job) -> Begun | None:
        """A request has come. None: it waits for a lane."""
        if self.running >= self.lanes:
            self._waiting.append(job)
            return None
        return self._begin(job)

    def computed(self, job: Job) -> float:
        """A prompt is: seconds for each further token of its answer."""
        self.cache.keep(job.beginnings)
        return self.service.each_token(Load(self.running - 1, self._machine.running - self.running))

    def finished(self, job: Job) -> Begun | None:
        """An answer is complete. Whose prompt begins now, if somebody waits."""
        self.running -= 1
        self._machine.running -= 1
        self._tokens -= _tokens(job)
        if job.answer is not None:
            self.cache.keep((*job.beginnings, job.answer))
        return self._begin(self._waiting.popleft()) if self._waiting else None

    def _begin(self, job: Job) -> Begun:
        load = Load(self.running, self._machine.running - self.running)
        self.running += 1
        self._machine.running += 1
        self._tokens += _tokens(job)
        prompt = job.arrival.prompt_tokens
        cached = min(self.cache.cached(job.beginnings), max(0, prompt - 1))
        return Begun(job, self.service.prefill(prompt - cached, load), cached)


def _tokens(job: Job) -> int:
    return job.arrival.prompt_tokens + job.arrival.completion_tokens
