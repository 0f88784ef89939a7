"""A span as we know it, before it is written in OpenTelemetry's form."""

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Protocol

import msgspec

Attribute = str | bool | int | float


class Kind(IntEnum):
    """The numbers are OTLP's."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3


class Source(msgspec.Struct, frozen=True):
    """The process that a span is of."""

    service: str
    """``gateway`` or ``worker``."""
    instance: str
    """Tells processes of one service apart."""


class Span(msgspec.Struct, frozen=True, kw_only=True):
    source: Source
    name: str
    trace_id: bytes
    span_id: bytes
    parent_id: bytes = b""
    """Empty: it is the first of its trace."""
    state: str = ""
    kind: Kind = Kind.INTERNAL
    began_ns: int
    """Since the epoch, as ``ended_ns``."""
    ended_ns: int
    attributes: Mapping[str, Attribute] = {}
    fault: str | None = None
    """Why what it stands for failed, in words. None: it did not."""


MakeSpans = Callable[[], Sequence[Span]]
"""Made when there is time for it."""


class Sink(Protocol):
    """Takes finished spans, and never waits."""

    exported: int
    """Spans that a collector has, since the process began."""
    dropped: int
    """Spans that none will get."""

    def take(self, make: MakeSpans) -> None: ...
    def start(self) -> None: ...
    async def stop(self) -> None: ...
