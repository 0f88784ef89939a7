"""Traces of the web process and of Celery, by OpenTelemetry's own instrumentation.

(Gateways and workers make their spans themselves: :mod:`inference.traces`.) The SDK reads its variables itself, once
:mod:`nopenai_site.tracing_environment` has found nothing wrong with them.
"""

import atexit
import threading
from collections.abc import Callable

from django.conf import settings

from nopenai_site import logs

_LAST_SECONDS = 1.0
"""What is left is sent when the process ends, if the collector takes it so soon."""


def instrument_django() -> None:
    """Before Django loads its middleware. Does nothing where nobody collects spans."""
    if settings.NOPENAI.traces is not None:
        from opentelemetry.instrumentation.django import DjangoInstrumentor

        DjangoInstrumentor().instrument()


def instrument_celery() -> None:
    """In workers and beat. A task's span goes on in the trace of who sent it."""
    if settings.NOPENAI.traces is not None:
        from opentelemetry.instrumentation.celery import CeleryInstrumentor

        CeleryInstrumentor().instrument()  # type: ignore[no-untyped-call]


def start(service: str) -> None:
    """Send this process's spans from now on; it does not fork any more."""
    traces = settings.NOPENAI.traces
    if traces is None:
        return
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    own = {"service.name": f"{traces.service_prefix}-{service}", "host.name": settings.NOPENAI.node_name}
    provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    logs.add_fields(_ids)
    atexit.register(_flush, provider.shutdown)


def _ids() -> dict[str, str]:
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    return {"trace_id": f"{context.trace_id:032x}"} if context.is_valid else {}


def _flush(shutdown: Callable[[], None]) -> None:
    """In a thread: a collector that hangs would hold up the end for longer."""
    thread = threading.Thread(target=shutdown, daemon=True)
    thread.start()
    thread.join(_LAST_SECONDS)
