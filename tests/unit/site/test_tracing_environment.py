"""OpenTelemetry's variables, as the specification has them."""

import pytest

from inference.traces.sampling import Rule, Sampler
from inference.traces.settings import TraceSettings
from nopenai_site import environment
from nopenai_site.environment import BadEnvironment

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/"}


def traces(**variables: str) -> TraceSettings | None:
    return environment.load({**ENDPOINT, **variables}).traces


def test_nothing_is_traced_without_an_endpoint() -> None:
    assert environment.load({"OTEL_TRACES_SAMPLER": "always_on"}).traces is None


def test_an_endpoint_is_enough() -> None:
    assert traces() == TraceSettings(url="http://collector:4318/v1/traces")


def test_one_of_traces_alone_is_taken_as_it_is() -> None:
    assert traces(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="https://x/y") == TraceSettings(url="https://x/y")


@pytest.mark.parametrize(
    "variables", [{"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_SDK_DISABLED": "true"}], ids=["no exporter", "disabled"]
)
def test_it_can_be_turned_off(variables: dict[str, str]) -> None:
    assert traces(**variables) is None


def test_all_that_can_be_set() -> None:
    assert traces(
        OTEL_EXPORTER_OTLP_HEADERS="api-key=a%20b, other=c",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        OTEL_EXPORTER_OTLP_TIMEOUT="30000",
        OTEL_EXPORTER_OTLP_TRACES_TIMEOUT="2000",
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        OTEL_TRACES_SAMPLER="parentbased_traceidratio",
        OTEL_TRACES_SAMPLER_ARG="0.25",
        OTEL_SERVICE_NAME="ours",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment=test",
        OTEL_BSP_SCHEDULE_DELAY="500",
        OTEL_BSP_MAX_EXPORT_BATCH_SIZE="10",
        OTEL_BSP_MAX_QUEUE_SIZE="20",
    ) == TraceSettings(
        url="http://collector:4318/v1/traces",
        headers={"api-key": "a b", "other": "c"},
        sampler=Sampler.of(Rule.PARENT_RATIO, 0.25),
        service_prefix="ours",
        resource={"deployment.environment": "test"},
        gzip=True,
        timeout_seconds=2.0,
        delay_seconds=0.5,
        batch_spans=10,
        queue_spans=20,
    )


@pytest.mark.parametrize(
    ("name", "value", "fix"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "use a URL"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "use http/protobuf"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "secret", "name=value"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "key=secret%0d%0aHost: elsewhere", "no line breaks"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a key=secret", "names and values that HTTP allows"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "whole number"),
        ("OTEL_TRACES_SAMPLER", "some", "use one of always_on"),
        ("OTEL_TRACES_SAMPLER_ARG", "7", "from 0 to 1"),
        ("OTEL_TRACES_SAMPLER_ARG", "nan", "from 0 to 1"),
        ("OTEL_TRACES_SAMPLER_ARG", "much", "number from 0 to 1"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "above 0"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "otlp, none"),
    ],
)
def test_a_bad_value_is_refused_with_the_fix(name: str, value: str, fix: str) -> None:
    with pytest.raises(BadEnvironment, match=f"{name}.*{fix}") as refused:
        traces(**{name: value})
    assert "secret" not in str(refused.value)


def test_a_collectors_key_is_shown_by_nothing() -> None:
    settings = traces(
        OTEL_EXPORTER_OTLP_ENDPOINT="http://me:hidden@collector:4318", OTEL_EXPORTER_OTLP_HEADERS="key=hidden"
    )
    assert repr(settings) == "TraceSettings(url='http://collector:4318/v1/traces')"
