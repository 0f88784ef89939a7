"""What workers tell of their part in a request, as spans of its trace."""

from collections.abc import Sequence

from inference.protocol import WorkerSpan
from inference.traces.context import new_span_id
from inference.traces.spans import Source, Span
from inference.traces.trace import Trace


def worker_spans(trace: Trace, worker_pid: int, told: Sequence[WorkerSpan]) -> list[Span]:
    source = Source("worker", str(worker_pid))
    return [
        Span(
            source=source,
            name=span.name,
            trace_id=trace.trace_id,
            span_id=new_span_id(),
            parent_id=trace.execution_id,
            began_ns=span.began_ns,
            ended_ns=span.ended_ns,
            attributes=span.attributes,
        )
        for span in told
    ]
