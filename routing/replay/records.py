"""Recorded arrivals: one JSON object a line. No text of a prompt or an answer is among them.

A file begins with a :class:`Head`; a :class:`Fleet` says what there was to choose from, whenever that changes; an
:class:`Arrival` is a request that has ended. Files of several gateway processes are read together.
"""

import heapq
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum

import msgspec

from routing.config import Routing

FORMAT = 1

LINK_BYTES = 8
"""Kept of each link: among a million of them the chance that any two are alike is one in forty million."""


FLEET_SECONDS = 10.0
"""What there is to choose from is written so often at most, and when it has changed."""


class Outcome(StrEnum):
    ANSWERED = "answered"
    FAILED = "failed"
    """For a reason of the server's."""
    LEFT = "left"
    """The client went away, or its request was wrong: it says nothing of the model."""


class Head(msgspec.Struct, frozen=True, kw_only=True, tag="head", tag_field="is"):
    format: int
    """:data:`FORMAT`. Required: that is what tells a recording from any other file."""
    gateway: str = ""
    """Which process wrote the file."""


class Facts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of one model that was ready."""

    version: str
    capabilities: tuple[str, ...] = ()
    context_length: int | None = None
    starter: bool = False
    lanes: int = 1
    """Requests that its worker computes together."""
    kv_tokens: int = 0
    """Tokens whose KV all running requests may have. 0: it was not told."""
    cache_tokens: int | None = None
    """Tokens whose KV its cache may keep, in RAM and on SSD. None: nobody could tell."""
    quota_used: float = 0.0
    """Of the limit that is nearest its end: 0–1."""
    quota_late: bool = False
    exhausted: bool = False


class Fleet(msgspec.Struct, frozen=True, kw_only=True, tag="fleet", tag_field="is"):
    at: float
    """Seconds since the epoch."""
    models: Mapping[str, Facts] = {}
    routing: Routing = Routing()


class Arrival(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="request", tag_field="is"):
    at: float
    """When it came: seconds since the epoch."""
    route: str
    """Or the model that it named."""
    named: bool = False
    """It named its model, so no strategy had a choice."""
    kind: str = "chat"
    capabilities: tuple[str, ...] = ()
    """What it demanded beside its kind."""
    models: tuple[str, ...] | None = None
    """That its key may ask for. None: all."""
    session: str = ""
    """A keyed hash. Empty: it had none."""
    links: bytes = b""
    """Names of the prompt's beginnings, the shortest first, :data:`LINK_BYTES` of each; keyed with a secret of the
    tenant's (:mod:`inference.prefixes`)."""
    ends: tuple[int, ...] = ()
    """About how many tokens each of these beginnings is."""
    context: int = 0
    """Tokens that prompt and answer were expected to need, where models differ in that."""
    stream: bool = False
    choices: int = 1
    model: str
    """That answered, or was asked last."""
    outcome: Outcome = Outcome.ANSWERED
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    prefill_seconds: float = 0.0
    """As its worker says. 0: it did not."""
    first_token_seconds: float = 0.0
    """From asking the worker to the first token; no load of the model is in it."""
    token_seconds: float = 0.0
    """For each further token."""

    @property
    def chain(self) -> tuple[bytes, ...]:
        """The names, one by one."""
        links = self.links
        return tuple(links[start : start + LINK_BYTES] for start in range(0, len(links), LINK_BYTES))

    @property
    def held(self) -> int:
        """How many of its prompt's beginnings the model held. Their ends are estimates, so more than half of one counts
        as all of it."""
        before = 0
        for count, end in enumerate(self.ends):
            if self.cached_tokens <= (before + end) / 2:
                return count
            before = end
        return len(self.ends)

    @property
    def held_tokens(self) -> int:
        """About as many as :attr:`cached_tokens`: up to the end of a beginning, as a simulation has them."""
        held = self.held
        return min(self.ends[held - 1], max(0, self.prompt_tokens - 1)) if held else 0

    @property
    def begin(self) -> float:
        """When its prompt began to be computed; its arrival, where that is not known."""
        return self.at + max(0.0, self.first_token_seconds - (self.prefill_seconds or self.first_token_seconds))

    @property
    def end(self) -> float:
        steps = self.completion_tokens // self.choices
        return self.at + self.first_token_seconds + max(0, steps - 1) * self.token_seconds


Line = Head | Fleet | Arrival

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Line)
_head = msgspec.json.Decoder(Head)


class BadRecording(ValueError):
    """It can't be replayed; ``str()`` is meant for the operator."""


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    arrivals: tuple[Arrival, ...]
    """In the order of their arrival."""
    models: Mapping[str, Facts]
    """All that were ready at any time, as they were last."""
    fleets: tuple[Fleet, ...]
    """Likewise in order."""
    routing: Routing
    """The newest."""
    damaged: int = 0
    """Lines that could not be read, such as the last one of a process that was killed."""


def encode_line(line: Line) -> bytes:
    return _encoder.encode(line) + b"\n"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which of the arrivals. Times are seconds since the epoch."""

    since: float = -math.inf
    until: float = math.inf
    most: int | None = None
    """The newest so many. None: all."""


ALL = Wanted()


def recording_of(files: Mapping[str, Iterable[bytes]], wanted: Wanted = ALL) -> Recording:
    """In memory is only what is wanted.

    Args:
        files: their lines, by their names.

    Raises:
        BadRecording: one is no recording, or of a version that we do not know; or there is no such request in any.
    """
    arrivals = _Newest(wanted)
    fleets: list[Fleet] = []
    damaged = 0
    for name, lines in files.items():
        for line in _lines(name, lines):
            if isinstance(line, Arrival):
                arrivals.add(line)
            elif isinstance(line, Fleet):
                fleets.append(line)
            else:
                damaged += line is None
    if not arrivals.seen:
        raise BadRecording(_nothing(files, damaged))
    if not (kept := arrivals.ascending()):
        raise BadRecording("No request came in that time.")
    fleets = _of_the_time(fleets, kept[0].at, kept[-1].at)
    return Recording(
        arrivals=kept,
        models={model: facts for fleet in fleets for model, facts in fleet.models.items()},
        fleets=tuple(fleets),
        routing=fleets[-1].routing if fleets else Routing(),
        damaged=damaged,
    )


class _Newest:
    """Keeps those of the arrivals that are wanted."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._kept: list[tuple[float, int, Arrival]] = []
        """A heap, the oldest first. Those of one moment stay in their order."""
        self.seen = 0

    def add(self, arrival: Arrival) -> None:
        self.seen += 1
        if not self._wanted.since <= arrival.at < self._wanted.until:
            return
        entry = arrival.at, self.seen, arrival
        if self._wanted.most is None or len(self._kept) < self._wanted.most:
            heapq.heappush(self._kept, entry)
        else:
            heapq.heappushpop(self._kept, entry)

    def ascending(self) -> tuple[Arrival, ...]:
        return tuple(arrival for _, _, arrival in sorted(self._kept))


def _of_the_time(fleets: Sequence[Fleet], first: float, last: float) -> list[Fleet]:
    """In order: what was so when the first request came, and what changed until the next look after the last one."""
    ascending = sorted(fleets, key=lambda each: each.at)
    begin = bisect_right(ascending, first, key=lambda each: each.at)
    end = bisect_right(ascending, last + FLEET_SECONDS, key=lambda each: each.at)
    return ascending[max(0, begin - 1) : max(end, 1)]


def _lines(name: str, lines: Iterable[bytes]) -> Iterator[Line | None]:
    """None stands for a damaged one."""
    rows = iter(lines)
    first = next(rows, b"")
    if not first.strip():
        return  # made a moment ago, or nothing of it reached the disk
    _check_head(name, first)
    for row in rows:
        if row.strip():
            yield _decoded(row)


def _check_head(name: str, row: bytes) -> None:
    try:
        head = _head.decode(row)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadRecording(f"{name} is no recording of arrivals: its first line does not say so.") from None
    if head.format != FORMAT:
        raise BadRecording(
            f"{name} is a recording of format {head.format}, and this server reads format {FORMAT}: "
            "replay it with the version that made it."
        )


def _decoded(row: bytes) -> Line | None:
    try:
        line = _decoder.decode(row)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return line if not isinstance(line, Arrival) or _is_sound(line) else None


def _is_sound(line: Arrival) -> bool:
    """What arithmetic relies on."""
    counts = (line.prompt_tokens, line.cached_tokens, line.completion_tokens, line.choices - 1, *line.ends)
    seconds = (line.prefill_seconds, line.first_token_seconds, line.token_seconds)
    return (
        min(counts) >= 0
        and min(seconds) >= 0
        and math.isfinite(line.at + sum(seconds))
        and line.cached_tokens <= line.prompt_tokens
        and len(line.links) == LINK_BYTES * len(line.ends)
    )


def _nothing(files: Mapping[str, object], damaged: int) -> str:
    if not files:
        return "There is no file to read."
    told = f", and {damaged} lines can't be read" if damaged else ""
    return f"No request is recorded in {_shown(list(files))}{told}."


def _shown(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
