"""The whole installation at rest, no model loaded: proportional set size of each process; and how fast it starts."""

import tempfile
import time
from pathlib import Path

import psutil

from tests.bench import servers
from tests.bench.idle import idle
from tests.installation import Installation, end
from tests.waiting import wait_until

_QUESTION = {"model": "auto", "messages": [{"role": "user", "content": "Hello!"}]}
_NAMES = {
    "manage.py up": "up",
    "postgres": "PostgreSQL",
    "redis": "Redis",
    "gunicorn_gateway": "gateway",
    "gunicorn_web": "web",
    "supervisor": "supervisor",
    " beat": "Celery beat",
    " worker": "Celery worker",
    "inference.engine": "spare engine worker",
}


def measure() -> str:
    sizes: dict[str, float] = {}
    with servers.installation() as running:
        # The last to come up say these; then all is there that will be.
        running.wait_for_message("This beat schedules the tasks")
        running.wait_for_message("ready.")
        wait_until(lambda: bool(running.spares()) and idle(running), 30)
        parent = psutil.Process(running.pid)
        for process in [parent, *parent.children(recursive=True)]:
            name = _name(" ".join(process.cmdline()))
            sizes[name] = sizes.get(name, 0.0) + process.memory_full_info().pss / 1024**2
    lines = ["| process | PSS, MB |", "| --- | ---: |"]
    lines += [f"| {name} | {size:.0f} |" for name, size in sorted(sizes.items(), key=lambda row: -row[1])]
    lines.append(f"| **all** (bar: ≤ 600) | **{sum(sizes.values()):.0f}** |")
    first, again = _start_seconds()
    lines.append(
        f"\n`make run` to the first answer, packages installed (bar: ≤ 6 s): {first:.1f} s on an empty data directory, "
        f"{again:.1f} s after that."
    )
    return "\n".join(lines)


def _start_seconds() -> tuple[float, float]:
    """From the start to the whole first answer of the starter model; with an empty data directory, and again."""
    with tempfile.TemporaryDirectory(prefix="nopenai-bench-") as directory:
        Path(directory).chmod(0o755)
        running = Installation(Path(directory))
        try:
            seconds = []
            for _ in range(2):
                began = time.perf_counter()
                running.start()
                running.wait_ready()
                status, answer = running.post("/v1/chat/completions", _QUESTION | {"max_tokens": 16})
                assert status == 200, answer
                seconds.append(time.perf_counter() - began)
                running.wait_started()
                running.stop()
                running.wait_gone()
        finally:
            end(running)
    return seconds[0], seconds[1]


def _name(command: str) -> str:
    return next((name for mark, name in _NAMES.items() if mark in command), command[:40])
