"""The spans of an inference request, as the guide names them:

    request                     from its head to the end of its answer
    ├─ routing_decision         which model
    ├─ quota_check              its limits, and the wait for a place among them
    └─ model_execution          from the worker that is asked to the last token; a retry is part of it
       ├─ queue                 of the worker, as it tells: until its turn
       ├─ cache_lookup          what of the prompt is there, and from which tier
       ├─ prefill               the rest of it, computed
       └─ decode                the answer

Times come from what is known when the request has ended. A worker that goes on after its client has left tells of its
part later.
"""

import os
import time
from functools import partial
from typing import NamedTuple

from inference.gateway.admitted import Admitted, Applicant
from inference.gateway.asgi import Headers
from inference.gateway.call import Call
from inference.gateway.dispatch import Answer
from inference.protocol import Embedded, Finished
from inference.traces.context import new_span_id, new_trace_id, parent_of
from inference.traces.sampling import Sampler
from inference.traces.spans import Attribute, Kind, MakeSpans, Sink, Source, Span
from inference.traces.trace import Trace
from registry.errors import ApiError

_EXECUTION = "model_execution"
_SERVERS_FAULT = 500


class Tracing:
    """Which requests of this process are traced, and where their spans go."""

    def __init__(self, sampler: Sampler | None = None, sink: Sink | None = None) -> None:
        """Without them nothing is traced here; ids that clients send are passed on nevertheless."""
        self._sampler = sampler
        self._tell = _forget if sink is None else sink.take
        self._source = Source("gateway", str(os.getpid()))

    def begin(self, headers: Headers) -> Trace | None:
        """None: nobody traces it, here or where it came from."""
        header = headers.get(b"traceparent")
        if header is None and self._sampler is None:
            return None
        parent = None if header is None else parent_of(header, headers.get(b"tracestate", b""))
        trace_id = new_trace_id() if parent is None else parent.trace_id
        sampled = self._sampler is not None and self._sampler.samples(trace_id, parent)
        if parent is None and not sampled:
            return None
        return Trace(trace_id, parent, sampled=sampled, tell=self._tell)

    def ended(self, call: Call, trace: Trace) -> None:
        if trace.sampled:
            trace.tell(partial(_spans, call, trace, self._source, time.time_ns()))


def _forget(_make: MakeSpans) -> None:
    """Nobody collects them."""


class _Part(NamedTuple):
    """Of a request."""

    name: str
    began_ns: int
    ended_ns: int
    attributes: dict[str, Attribute]


def _spans(call: Call, trace: Trace, source: Source, ended_ns: int) -> list[Span]:
    parent, fault = trace.parent, call.error
    attributes: dict[str, Attribute] = {
        "http.request.method": call.method,
        "http.response.status_code": call.status,
        "url.path": call.path,
        "nopenai.request_id": call.request_id,
    }
    if fault is not None:
        attributes["error.type"] = fault.code or "server_error"
    request = Span(
        source=source,
        name="request",
        trace_id=trace.trace_id,
        span_id=trace.span_id,
        parent_id=b"" if parent is None else parent.span_id,
        state="" if parent is None else parent.state,
        kind=Kind.SERVER,
        began_ns=trace.began_ns,
        ended_ns=ended_ns,
        attributes=attributes,
        # What clients do wrong is no error of a server's span, by OpenTelemetry's conventions.
        fault=fault.message if fault is not None and fault.status >= _SERVERS_FAULT else None,
    )
    parts = _parts(call, trace, ended_ns)
    # A request that fails does so in the last part that it came to.
    return [request, *(_child(trace, source, part, fault if part is parts[-1] else None) for part in parts)]


def _child(trace: Trace, source: Source, part: _Part, fault: ApiError | None) -> Span:
    executes = part.name == _EXECUTION
    return Span(
        source=source,
        name=part.name,
        trace_id=trace.trace_id,
        span_id=trace.execution_id if executes else new_span_id(),
        parent_id=trace.span_id,
        kind=Kind.CLIENT if executes else Kind.INTERNAL,
        began_ns=part.began_ns,
        ended_ns=part.ended_ns,
        attributes=part.attributes,
        fault=None if fault is None else fault.message,
    )


def _parts(call: Call, trace: Trace, ended_ns: int) -> list[_Part]:
    """Those that it came to."""
    if call.ask is None:
        return []
    asked_ns, applicant, admitted = trace.at_ns(call.ask.now), call.applicant, call.admitted
    if applicant is None:
        return [_Part("routing_decision", asked_ns, ended_ns, {})]
    decided_ns = asked_ns + int(applicant.decision.microseconds * 1000)
    routed = _Part("routing_decision", asked_ns, decided_ns, _routing(applicant))
    if admitted is None:
        return [routed, _Part("quota_check", decided_ns, ended_ns, {"nopenai.model": applicant.model})]
    admitted_ns = trace.at_ns(admitted.began)
    return [
        routed,
        _Part("quota_check", decided_ns, admitted_ns, _quota(admitted)),
        _Part(_EXECUTION, admitted_ns, ended_ns, _execution(admitted, call.begun)),
    ]


def _routing(applicant: Applicant) -> dict[str, Attribute]:
    decision = applicant.decision
    found: dict[str, Attribute] = {
        "nopenai.route": decision.asked,
        "nopenai.strategy": decision.strategy,
        "nopenai.candidates": decision.candidates,
        "nopenai.model": decision.version.model,
        "nopenai.version": decision.version.version,
    }
    if decision.variant is not None:
        found["nopenai.ab_test.variant"] = decision.variant
    return found


def _quota(admitted: Admitted) -> dict[str, Attribute]:
    found: dict[str, Attribute] = {"nopenai.model": admitted.applicant.model}
    if admitted.ways:
        found["nopenai.degraded"] = ", ".join(admitted.ways)
    return found


def _execution(admitted: Admitted, answer: Answer | None) -> dict[str, Attribute]:
    """By OpenTelemetry's conventions for generative AI, where they have a name."""
    request = admitted.request
    found: dict[str, Attribute] = {
        "gen_ai.operation.name": "embeddings" if request.inputs else admitted.applicant.ask.kind,
        "gen_ai.request.model": admitted.decision.asked,
        "nopenai.stream": request.stream,
    }
    if answer is None:
        return found
    found["gen_ai.response.model"] = answer.version.model
    found["nopenai.version"] = answer.version.version
    found["nopenai.load_wait_ms"] = answer.queue_seconds * 1000
    last = answer.messages[-1]
    if isinstance(last, Finished | Embedded):
        found["gen_ai.usage.input_tokens"] = last.prompt_tokens
    if isinstance(last, Finished):
        found["gen_ai.usage.output_tokens"] = last.completion_tokens
        found["nopenai.cached_tokens"] = last.cached_tokens
        found["nopenai.finish_reason"] = last.reason.value
    return found
