"""A collector of traces that speaks OTLP over HTTP, and can be told to misbehave."""

import gzip
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan

Value = str | bool | int | float


class CollectedSpan(NamedTuple):
    name: str
    service: str
    instance: str
    trace_id: str
    span_id: str
    parent_id: str
    began_ns: int
    ended_ns: int
    attributes: Mapping[str, Value]
    failed: bool
    message: str
    kind: int
    state: str


class Collector:
    def __init__(self, *, keep: bool = True) -> None:
        """``keep``: read what comes. It takes time, of which a benchmark has none to give."""
        self._keep = keep
        self.spans: list[CollectedSpan] = []
        self.batches: list[int] = []
        """How many spans came together."""
        self.headers: list[Mapping[str, str]] = []
        self.status = 200
        self.asked = threading.Event()
        self.gate = threading.Event()
        """While it is not set, nothing is answered."""
        self.gate.set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def tree(self, name: str = "request") -> dict[str, CollectedSpan]:
        """The only trace that is there, by the names of its spans."""
        (root,) = [span for span in self.spans if span.name == name]
        return {span.name: span for span in self.spans if span.trace_id == root.trace_id}

    def take(self, body: bytes, headers: Mapping[str, str]) -> int:
        if self._keep:
            self.headers.append(headers)
        self.asked.set()
        self.gate.wait()
        if self.status == 200 and self._keep:
            spans = list(_spans(gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body))
            self.batches.append(len(spans))
            self.spans += spans
        return self.status


@contextmanager
def collector(*, keep: bool = True) -> Iterator[Collector]:
    collected = Collector(keep=keep)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            assert self.headers["Content-Type"] == "application/x-protobuf"
            status = collected.take(body, {name.lower(): value for name, value in self.headers.items()})
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collected.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield collected
    finally:
        collected.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _spans(body: bytes) -> Iterator[CollectedSpan]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        own = {pair.key: _value(pair.value) for pair in resource.resource.attributes}
        for scope in resource.scope_spans:
            assert scope.scope.name
            for span in scope.spans:
                yield _read(span, str(own["service.name"]), str(own.get("service.instance.id", "")))


def _read(span: OtlpSpan, service: str, instance: str) -> CollectedSpan:
    return CollectedSpan(
        name=span.name,
        service=service,
        instance=instance,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        began_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        attributes={pair.key: _value(pair.value) for pair in span.attributes},
        failed=span.status.code == 2,
        message=span.status.message,
        kind=span.kind,
        state=span.trace_state,
    )


def _value(value: AnyValue) -> Value:
    found: Value = getattr(value, str(value.WhichOneof("value")))
    return found
