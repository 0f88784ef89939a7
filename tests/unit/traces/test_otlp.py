"""What is written is what the protocol's own classes read."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2 as otlp

from inference.traces.otlp import resource_message, resource_spans, span_message
from inference.traces.spans import Attribute, Kind, Source, Span

# What UTF-8 has no form for, a lone half of a pair, can't be in protobuf either.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
values = texts | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
attributes = st.dictionaries(texts, values, max_size=5)
moments = st.integers(0, 2**64 - 1)
spans = st.builds(
    Span,
    source=st.just(Source("gateway", "1")),
    name=texts,
    trace_id=st.binary(min_size=16, max_size=16),
    span_id=st.binary(min_size=8, max_size=8),
    parent_id=st.binary(min_size=8, max_size=8) | st.just(b""),
    state=texts,
    kind=st.sampled_from(Kind),
    began_ns=moments,
    ended_ns=moments,
    attributes=attributes,
    fault=texts | st.none(),
)


@given(spans)
def test_a_span(span: Span) -> None:
    assert otlp.Span.FromString(span_message(span)) == as_the_protocol_has_it(span)


@given(attributes, texts, texts, st.lists(spans, max_size=3))
def test_a_request_with_a_resource_and_its_spans(
    resource: dict[str, Attribute], name: str, version: str, made: list[Span]
) -> None:
    written = resource_spans(resource_message(resource), (name, version), map(span_message, made))
    (read,) = ExportTraceServiceRequest.FromString(written).resource_spans
    assert read.resource == Resource(attributes=key_values(resource))
    (scope,) = read.scope_spans
    assert (scope.scope.name, scope.scope.version) == (name, version)
    assert list(scope.spans) == [as_the_protocol_has_it(span) for span in made]


def test_half_of_a_pair_is_replaced() -> None:
    span = Span(
        source=Source("gateway", "1"), name="\ud800", trace_id=b"1" * 16, span_id=b"1" * 8, began_ns=1, ended_ns=2
    )
    assert otlp.Span.FromString(span_message(span)).name == "?"


def as_the_protocol_has_it(span: Span) -> otlp.Span:
    expected = otlp.Span(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_span_id=span.parent_id,
        trace_state=span.state,
        name=span.name,
        kind=otlp.Span.SpanKind.ValueType(span.kind),
        start_time_unix_nano=span.began_ns,
        end_time_unix_nano=span.ended_ns,
        attributes=key_values(dict(span.attributes)),
    )
    if span.fault is not None:
        expected.status.code = otlp.Status.STATUS_CODE_ERROR
        expected.status.message = span.fault
    return expected


def key_values(attributes: dict[str, Attribute]) -> list[KeyValue]:
    return [KeyValue(key=name, value=value_of(value)) for name, value in attributes.items()]


def value_of(value: Attribute) -> AnyValue:
    fields: dict[type, str] = {bool: "bool_value", int: "int_value", float: "double_value", str: "string_value"}
    given_: dict[str, Any] = {fields[type(value)]: value}
    return AnyValue(**given_)
