"""What the gateway adds to a request: ours, LiteLLM, SGLang's router, a bare ASGI proxy; workers answer at once."""

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass

from tests.bench import servers

SECONDS = 8
CONNECTIONS = 16

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
    with servers.stub_gateway() as (url, _):
        ours = _both(url, "stub")
        routed = _both(url, "auto")
    rows = [
        ("nopenai gateway, a model by its name", *ours),
        ("nopenai gateway, routed by `cache_aware`, counted, sampled", *routed),
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
    lines.append(f"\nThe stub itself, without a proxy: {direct[0].p50_ms:.2f} ms p50. Bar: ≥ 0.6 × bare.")
    return "\n".join(lines)


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
