"""A request's trace: its ids, and its clock."""

import time
from collections.abc import Callable

from inference.traces.context import Parent, new_span_id, traceparent
from inference.traces.spans import MakeSpans


class Trace:
    """Of one request, in one process."""

    __slots__ = ("_clock_ns", "began_ns", "execution_id", "parent", "sampled", "span_id", "tell", "trace_id")

    def __init__(
        self, trace_id: bytes, parent: Parent | None, *, sampled: bool, tell: Callable[[MakeSpans], None]
    ) -> None:
        """
        Args:
            parent: in whose span the request was made. None: it begins its trace.
            sampled: its spans are wanted.
            tell: takes them.
        """
        self.trace_id = trace_id
        self.parent = parent
        self.sampled = sampled
        self.tell = tell
        self.began_ns = time.time_ns()
        self._clock_ns = self.began_ns - time.monotonic_ns()
        self.span_id = new_span_id()
        self.execution_id = new_span_id()
        """Of the span in which somebody else serves it."""

    @property
    def traceparent(self) -> str:
        """For who serves it."""
        return traceparent(self.trace_id, self.execution_id, sampled=self.sampled)

    def at_ns(self, moment: float) -> int:
        """A moment of ``time.monotonic``, since the epoch."""
        return self._clock_ns + int(moment * 1e9)


def log_ids(request_id: str, trace: Trace | None) -> dict[str, str]:
    """The fields of a log line that tell its request."""
    ids = {"request_id": request_id}
    if trace is not None:
        ids["trace_id"] = trace.trace_id.hex()
    return ids
