"""Builds the gateway's ASGI application. gunicorn loads ``application`` in each of its workers."""

import os
import sys

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "nopenai_site.settings_core")
django.setup()

from django.conf import settings  # noqa: E402

from inference.gateway.app import Gateway, GatewayConfig  # noqa: E402
from inference.gateway.arrivals_thread import ArrivalThread  # noqa: E402
from inference.gateway.leases import LeaseThread  # noqa: E402
from inference.gateway.snapshot import SnapshotThread  # noqa: E402
from inference.gateway.usage_thread import UsageThread  # noqa: E402
from inference.nodes.identity import Identity  # noqa: E402
from inference.nodes.passage import Passage  # noqa: E402
from inference.traces.export import OtlpSink  # noqa: E402
from inference.traces.spans import Sink  # noqa: E402
from nopenai_site import logs  # noqa: E402
from nopenai_site.environment import Environment  # noqa: E402
from nopenai_site.version import build as build_info  # noqa: E402
from registry.backends.addresses import Policy  # noqa: E402

# The snapshot's thread must not hold the event loop up for Python's usual 5 ms each time that it has work.
sys.setswitchinterval(0.0005)


def build(environment: Environment) -> Gateway:
    return Gateway(
        GatewayConfig(
            node_name=environment.node_name,
            supervisor_socket=environment.supervisor_socket,
            web_socket=environment.web_socket,
            require_api_key=environment.require_api_key,
            profile=environment.profile,
            build=build_info(),
            ticket_key=str(settings.SECRET_KEY).encode(),
            time_zone=environment.time_zone,
            remote_policy=Policy(environment.remote_networks),
        ),
        SnapshotThread,
        LeaseThread(environment.leases_dir),
        UsageThread(),
        ArrivalThread(environment.arrivals_dir, settings.SECRET_KEY.encode()) if environment.record_arrivals else None,
        environment.traces.sampler if environment.traces is not None else None,
        _span_sink(environment),
        _passage(environment),
    )


def _passage(environment: Environment) -> Passage | None:
    """Whoever is reached by others reaches them."""
    if environment.node_address is None:
        return None
    return Passage(Identity(environment.node_name, str(settings.SECRET_KEY).encode()))


def _span_sink(environment: Environment) -> Sink | None:
    if environment.traces is None:
        return None
    return OtlpSink(environment.traces, version=build_info()["version"], node=environment.node_name)


logs.configure(settings.NOPENAI.log_level, module="gateway")
application = build(settings.NOPENAI)
