"""What a worker did for a request that is traced, as spans: of times that are taken anyway."""

import time
from typing import NamedTuple

from inference.engine.cache.names import BLOCK_TOKENS
from inference.protocol import Embed, Generate, WorkerSpan


class Lookup(NamedTuple):
    """Of a prompt in the cache. Moments are of ``time.monotonic``."""

    began: float
    ended: float
    disk_blocks: int
    """That the disk had brought before."""


class Times(NamedTuple):
    """Of one request, of ``time.monotonic``."""

    arrived: float
    started: float | None
    """Its first prefill; None: it never had its turn."""
    first_token: float | None
    ended: float


def text_spans(
    request: Generate,
    times: Times,
    lookup: Lookup | None,
    *,
    prompt_tokens: int,
    cached_tokens: int,
    completion_tokens: int,
) -> tuple[WorkerSpan, ...]:
    """Of those parts that it came to; nothing where nobody wants them."""
    if not _wanted(request):
        return ()
    spans = [_span("queue", times.arrived, times.started or times.ended)]
    if lookup is not None:
        blocks = -(-cached_tokens // BLOCK_TOKENS)
        found: dict[str, str | int | float] = {
            "nopenai.prompt_tokens": prompt_tokens,
            "nopenai.cached_tokens": cached_tokens,
            "nopenai.blocks.ram": max(0, blocks - lookup.disk_blocks),
            "nopenai.blocks.ssd": min(blocks, lookup.disk_blocks),
        }
        spans.append(_span("cache_lookup", lookup.began, lookup.ended, found))
    if times.started is not None:
        computed: dict[str, str | int | float] = {"nopenai.computed_tokens": prompt_tokens - cached_tokens}
        began = times.started if lookup is None else lookup.ended
        spans.append(_span("prefill", began, times.first_token or times.ended, computed))
    if times.first_token is not None:
        made: dict[str, str | int | float] = {"nopenai.completion_tokens": completion_tokens}
        spans.append(_span("decode", times.first_token, times.ended, made))
    return tuple(spans)


def embedding_spans(request: Embed, arrived: float, ended: float) -> tuple[WorkerSpan, ...]:
    """Embeddings of many requests are computed together: the wait for that is part of it."""
    return (_span("embed", arrived, ended, {"nopenai.inputs": len(request.inputs)}),) if _wanted(request) else ()


def _wanted(request: Generate | Embed) -> bool:
    """The last flag of W3C Trace Context says so."""
    return request.traceparent.endswith("1")


def _span(name: str, began: float, ended: float, attributes: dict[str, str | int | float] | None = None) -> WorkerSpan:
    offset = time.time_ns() - time.monotonic_ns()
    began_ns, ended_ns = offset + int(began * 1e9), offset + int(ended * 1e9)
    return WorkerSpan(name=name, began_ns=began_ns, ended_ns=ended_ns, attributes=attributes or {})
