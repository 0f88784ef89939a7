"""OpenTelemetry's own variables, as far as spans need them.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

import math
import re
from collections.abc import Callable
from typing import Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from inference.traces.sampling import Rule, Sampler
from inference.traces.settings import TraceSettings

T = TypeVar("T")

_DEFAULTS = TraceSettings(url="")

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A header's name: https://www.rfc-editor.org/rfc/rfc9110#name-tokens"""


class Reader(Protocol):
    """Of one variable: its default where it is empty, and where it is wrong, too, which is then told."""

    def read(self, name: str, default: T, parse: Callable[[str], T]) -> T: ...


def trace_settings(reader: Reader) -> TraceSettings | None:
    """None: no spans are made, since nobody collects them."""
    everything = reader.read("OTEL_EXPORTER_OTLP_ENDPOINT", "", _url)
    url = reader.read("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", _below(everything), _url)
    settings = TraceSettings(
        url=url,
        headers=_either(reader, "OTEL_EXPORTER_OTLP_{}HEADERS", _DEFAULTS.headers, _headers),
        sampler=_sampler(reader),
        service_prefix=reader.read("OTEL_SERVICE_NAME", _DEFAULTS.service_prefix, str),
        resource=reader.read("OTEL_RESOURCE_ATTRIBUTES", _DEFAULTS.resource, _pairs),
        gzip=_either(reader, "OTEL_EXPORTER_OTLP_{}COMPRESSION", "none", _one_of("gzip", "none")) == "gzip",
        timeout_seconds=_either(reader, "OTEL_EXPORTER_OTLP_{}TIMEOUT", _DEFAULTS.timeout_seconds, _milliseconds),
        delay_seconds=reader.read("OTEL_BSP_SCHEDULE_DELAY", _DEFAULTS.delay_seconds, _milliseconds),
        batch_spans=reader.read("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", _DEFAULTS.batch_spans, _count),
        queue_spans=reader.read("OTEL_BSP_MAX_QUEUE_SIZE", _DEFAULTS.queue_spans, _count),
    )
    exporter = reader.read("OTEL_TRACES_EXPORTER", "otlp", _one_of("otlp", "none"))
    disabled = reader.read("OTEL_SDK_DISABLED", "false", _one_of("true", "false")) == "true"
    if not url or exporter == "none" or disabled:
        return None
    _either(reader, "OTEL_EXPORTER_OTLP_{}PROTOCOL", "", _protocol)
    return settings


def _either(reader: Reader, name: str, default: T, parse: Callable[[str], T]) -> T:
    """What is set for traces goes before what is set for all signals."""
    return reader.read(name.format("TRACES_"), reader.read(name.format(""), default, parse), parse)


def _sampler(reader: Reader) -> Sampler:
    rule = Rule(reader.read("OTEL_TRACES_SAMPLER", Rule.PARENT_ALWAYS_ON.value, _one_of(*Rule)))
    return Sampler.of(rule, reader.read("OTEL_TRACES_SAMPLER_ARG", 1.0, _ratio))


def _below(endpoint: str) -> str:
    return endpoint.rstrip("/") + "/v1/traces" if endpoint else ""


def _url(raw: str) -> str:
    if urlsplit(raw).scheme not in ("http", "https") or not urlsplit(raw).hostname:
        raise ValueError("use a URL such as http://localhost:4318")
    return raw


def _protocol(raw: str) -> str:
    if raw != "http/protobuf":
        raise ValueError("use http/protobuf, for which collectors listen on port 4318")
    return raw


def _pairs(raw: str) -> dict[str, str]:
    """``name=value,…``, percent-encoded, as W3C Baggage."""
    pairs = {}
    for part in filter(None, (part.strip() for part in raw.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            raise ValueError("use name=value,name=value")
        pairs[name.strip()] = unquote(value.strip())
    return pairs


def _headers(raw: str) -> dict[str, str]:
    headers = _pairs(raw)
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name) or not value.isprintable() or not value.isascii():
            raise ValueError("use names and values that HTTP allows: printable ASCII, no line breaks")
    return headers


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(raw: str) -> str:
        if raw.lower() not in allowed:
            raise ValueError(f"use one of {', '.join(allowed)}")
        return raw.lower()

    return parse


def _milliseconds(raw: str) -> float:
    return _count(raw) / 1000


def _count(raw: str) -> int:
    if not raw.isascii() or not raw.isdigit() or not 1 <= int(raw) <= 10**9:
        raise ValueError("use a whole number above 0")
    return int(raw)


def _ratio(raw: str) -> float:
    try:
        ratio = float(raw)
    except ValueError:
        ratio = math.nan
    if not 0 <= ratio <= 1:
        raise ValueError("use a number from 0 to 1, such as 0.1")
    return ratio
