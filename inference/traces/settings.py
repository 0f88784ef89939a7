"""Where spans go, as OpenTelemetry's environment variables say it."""

from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

import msgspec

from inference.traces.sampling import Rule, Sampler


class TraceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults are the specification's."""

    url: str
    """Of the collector, for traces: ``http://localhost:4318/v1/traces``."""
    headers: Mapping[str, str] = {}
    """Sent along: a collector's key may be among them."""
    sampler: Sampler = Sampler.of(Rule.PARENT_ALWAYS_ON)
    service_prefix: str = "nopenai"
    """Of the services' names: ``nopenai-gateway``, ``nopenai-worker``."""
    resource: Mapping[str, str] = {}
    """Further attributes of every process."""
    gzip: bool = False
    timeout_seconds: float = 10.0
    """That a collector may take for a batch."""
    delay_seconds: float = 5.0
    """A batch is sent so long after its first span, or when it is full."""
    batch_spans: int = 512
    queue_spans: int = 2048
    """No more wait; what comes then is dropped."""

    @property
    def shown_url(self) -> str:
        """Without a name and password that it may hold: for logs and reports."""
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))

    def __repr__(self) -> str:
        """Without the headers, as logs and reports show settings."""
        return f"TraceSettings(url={self.shown_url!r})"
