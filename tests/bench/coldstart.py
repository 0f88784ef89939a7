"""From a request for a model that is not loaded to its first token, beside llama-server from its start to the same.

Both have a context of 8,192 tokens and take turns. Our gateway runs, and the model was unloaded; of llama-server, which
serves one model a process, the process is started. It comes in a Python wheel here: what Python and the import take is
not counted.
"""

import json
import os
import statistics
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tests.bench import servers
from tests.bench.environments import HERE, python_of
from tests.bench.idle import idle
from tests.bench.throughput import MODEL, starter_model
from tests.installation import Installation, free_port
from tests.page_cache import forget, resident_share
from tests.waiting import wait_until

PAIRS = 9
CONTEXT_TOKENS = 8192

_ONE_LANE = {"lanes": 1, "context_tokens": CONTEXT_TOKENS}
_PATIENCE_SECONDS = 60.0


def measure() -> str:
    """A table in Markdown."""
    file = starter_model()
    with servers.installation() as ours:
        path = f"/api/v1/models/{MODEL}/versions/1.0.0"
        assert ours.patch(path, {"parameters": _ONE_LANE})[0] == 200
        first_token(ours.url)
        _rest(ours)
        warm = _pairs(ours, lambda: None)
        cold = _pairs(ours, lambda: _forget(file))
    lines = [
        "| seconds to the first token, median · longest | ours | llama-server | × |",
        "| --- | ---: | ---: | ---: |",
        _row("weights in the page cache", warm),
        _row("weights on the disk", cold),
    ]
    return "\n".join([*lines, "", f"{PAIRS} pairs by turns, contexts of {CONTEXT_TOKENS:,} tokens. Bar: ≤ 0.5×."])


def _row(name: str, pairs: list[tuple[float, float]]) -> str:
    ours, theirs = zip(*pairs, strict=True)
    ratio = statistics.median(mine / other for mine, other in pairs)
    cells = (f"{statistics.median(each):.3f} · {max(each):.3f}" for each in (ours, theirs))
    return f"| {name} | {' | '.join(cells)} | {ratio:.2f} |"


def _pairs(ours: Installation, before: Callable[[], None]) -> list[tuple[float, float]]:
    pairs = []
    for _ in range(PAIRS):
        _rest(ours)
        before()
        began = time.perf_counter()
        mine = first_token(ours.url) - began
        _rest(ours)
        before()
        pairs.append((mine, _llama_server_seconds()))
    return pairs


def _rest(ours: Installation) -> None:
    """The model is unloaded, and the server has done what it does afterwards."""
    assert ours.post(f"/api/v1/models/{MODEL}/unload", {})[0] == 202
    wait_until(lambda: json.loads(ours.get(f"/v1/models/{MODEL}")[1])["state"] == "cold", _PATIENCE_SECONDS)
    wait_until(lambda: idle(ours), _PATIENCE_SECONDS)


def first_token(url: str, **fields: object) -> float:
    """The moment at which the first text of a streamed answer was there, of ``time.perf_counter``."""
    body = {"messages": [{"role": "user", "content": "Hello!"}], "stream": True, "max_tokens": 8, "model": MODEL}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        data=json.dumps(body | fields).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=_PATIENCE_SECONDS) as answer:
        for line in answer:
            if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                return time.perf_counter()
    raise AssertionError("the answer had no text")


def _llama_server_seconds() -> float:
    port = free_port()
    threads = len(os.sched_getaffinity(0))
    script = HERE / "peers" / "llama_server.py"
    command = [python_of("llama-server"), script, starter_model(), port, threads, 1, CONTEXT_TOKENS, 0]
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"imported\n"
            began = time.perf_counter()
            url = f"http://127.0.0.1:{port}"
            while not _answers(url):
                time.sleep(0.001)
            return first_token(url) - began
        finally:
            server.kill()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=1):
            return True
    except OSError:
        return False


def _forget(file: Path) -> None:
    forget(file)
    assert resident_share(file) < 0.01, "somebody maps the weights"
