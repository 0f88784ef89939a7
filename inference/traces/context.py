"""W3C Trace Context: what a client's ``traceparent`` says, and what we pass on. Pure.

https://www.w3.org/TR/trace-context/
"""

import random
import re

import msgspec

_FORM = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_SAMPLED = 1
_FIRST_VERSION = b"00"
_NO_VERSION = b"ff"

_LONGEST_STATE = 512
"""Bytes that must be passed on at least."""


class Parent(msgspec.Struct, frozen=True, kw_only=True):
    """The span of another process in which a request was made."""

    trace_id: bytes
    """16 bytes."""
    span_id: bytes
    """8 bytes."""
    sampled: bool
    state: str = ""
    """``tracestate``: what tracing systems say to themselves."""


def parent_of(traceparent: bytes, tracestate: bytes = b"") -> Parent | None:
    """None: it has no valid form, and is to be treated as if it were not there."""
    found = _FORM.fullmatch(traceparent.strip())
    if found is None or found[1] == _NO_VERSION or (found[1] == _FIRST_VERSION and found[5]):
        return None
    trace_id, span_id = bytes.fromhex(found[2].decode()), bytes.fromhex(found[3].decode())
    if not any(trace_id) or not any(span_id):
        return None
    state = tracestate.decode("ascii", "replace") if len(tracestate) <= _LONGEST_STATE else ""
    return Parent(trace_id=trace_id, span_id=span_id, sampled=bool(int(found[4], 16) & _SAMPLED), state=state)


def traceparent(trace_id: bytes, span_id: bytes, *, sampled: bool) -> str:
    """For a request that is made in this span."""
    return f"00-{trace_id.hex()}-{span_id.hex()}-{'01' if sampled else '00'}"


def new_trace_id() -> bytes:
    """Never all zeros, which means none. No secret: it need not be drawn like one."""
    return (random.getrandbits(128) or 1).to_bytes(16)


def new_span_id() -> bytes:
    return (random.getrandbits(64) or 1).to_bytes(8)
