"""What the gateway adds to a request: ours, LiteLLM, SGLang's router, a bare ASGI proxy; workers answer at once."""

import re
import shutil
import statistics
import subprocess
import tempfile
from dataclasses import dataclass

from tests.bench import servers
from tests.collector import Collector, collector

SECONDS = 8
CONNECTIONS = 16
ROUNDS, ROUND_SECONDS = 9, 4

_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer %s"
wrk.body = '{"model": "%s", "messages": [{"role": "user", "content": "Hello!"}]}'
"""


@dataclass(frozen=True, slots=True)
class Load:
    requests_per_second: float
    p50_ms: float


def measure() -> str:
    """One gateway process everywhere; keep-alive; each server alone on the machine while it is measured."""
    with servers.stub_upstream() as upstream:
        direct = _both(upstream, "stub")
        with servers.bare_proxy(upstream) as url:
            bare = _both(url, "stub")
        with servers.litellm(upstream) as url:
            light = _both(url, "stub")
        with servers.sglang_router(upstream) as url:
            rust = _both(url, "stub")
    with collector(keep=False) as spans, servers.stub_gateway(**_tenth_traced(spans)) as (traced_url, _):
        with servers.stub_gateway() as (url, _):
            ours = _both(url, "stub")
            routed = _both(url, "auto")
            cost = _cost_of_tracing(url, traced_url)
        traced = _both(traced_url, "auto")
    rows = [
        ("nopenai gateway, a model by its name", *ours),
        ("nopenai gateway, routed by `cache_aware`, counted, sampled", *routed),
        ("the same, and a tenth of the requests traced", *traced),
        ("bare uvicorn + aiohttp proxy", *bare),
        ("LiteLLM proxy", *light),
        ("SGLang's router, Rust, as many threads as it likes", *rust),
    ]
    lines = [
        f"| proxy (1 process) | requests/s, {CONNECTIONS} connections | × bare | p50 added at 1 connection, ms |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, one, many in rows:
        ratio = many.requests_per_second / bare[1].requests_per_second
        added = one.p50_ms - direct[0].p50_ms
        lines.append(f"| {name} | {many.requests_per_second:,.0f} | {ratio:.2f} | {added:.2f} |")
    lines.append(
        f"\nThe stub itself, without a proxy: {direct[0].p50_ms:.2f} ms p50. Bar: ≥ 0.6 × bare. Tracing a tenth costs "
        f"{cost:.1%} of the requests/s: the median of {ROUNDS} pairs of {ROUND_SECONDS} s, by turns. Bar: ≤ 5 %."
    )
    return "\n".join(lines)


def _tenth_traced(spans: Collector) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": spans.url,
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.1",
        "OTEL_BSP_MAX_QUEUE_SIZE": "100000",  # nothing is dropped, which would cost less
    }


def _cost_of_tracing(without: str, traced: str) -> float:
    """Of two gateways that take turns under load, so that what else the machine does befalls both."""
    load(traced, "auto", CONNECTIONS, 2)
    costs = []
    for _ in range(ROUNDS):
        plain = load(without, "auto", CONNECTIONS, ROUND_SECONDS).requests_per_second
        costs.append(1 - load(traced, "auto", CONNECTIONS, ROUND_SECONDS).requests_per_second / plain)
    return statistics.median(costs)


def _both(url: str, model: str) -> tuple[Load, Load]:
    load(url, model, 1, 2)
    return load(url, model, 1, SECONDS), load(url, model, CONNECTIONS, SECONDS)


def load(url: str, model: str, connections: int, seconds: int, key: str = "none") -> Load:
    """``wrk`` (Debian's package), a C client with next to no cost of its own."""
    program = shutil.which("wrk")
    if program is None:
        raise SystemExit("the benchmark needs wrk: run tests/system-packages, or apt-get install wrk")
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_SCRIPT % (key, model))
        script.flush()
        command = [program, "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script.name]
        output = subprocess.run(
            [*command, f"{url}/v1/chat/completions"], check=True, capture_output=True, text=True
        ).stdout
    assert "Non-2xx" not in output and "Socket errors" not in output, output
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    median = re.search(r"50%\s+([\d.]+)(us|ms|s)", output)
    assert rate and median, output
    return Load(float(rate[1]), float(median[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[median[2]])
