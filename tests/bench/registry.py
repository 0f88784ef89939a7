"""Ten thousand models in the registry: how long scans, lists and pages take, and what a gateway's memory grows by."""

import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx2 as httpx
import psutil

from tests import gguf_files
from tests.bench.idle import idle
from tests.installation import Installation, LogRecord, end
from tests.waiting import wait_until

MODELS = 10_000
WORDS = 1_000
_FEW = 10
_ASKED = 20
_PATIENCE_SECONDS = 600.0
_PASSWORD = "a password of the benchmark"
_NAME = "model-{:05}"


def measure() -> str:
    """A table in Markdown."""
    with _installation(_FEW) as few:
        few_mb = _gateway_mb(few)
    with _installation(MODELS) as many:
        scan = _scanned(many)
        rows = [
            ("first scan", "≤ 60 s", f"{scan:.1f} s"),
            ("rescan, nothing changed", "≤ 3 s", f"{_rescan_seconds(many):.2f} s"),
            ("`GET /v1/models?limit=100`", "≤ 20 ms", _milliseconds(lambda: _get(many, "/v1/models?limit=100"))),
            ("`GET /v1/models`, all", "≤ 500 ms", _milliseconds(lambda: _get(many, "/v1/models"))),
            ("`GET /api/v1/models`, all", "", _milliseconds(lambda: _get(many, "/api/v1/models"), times=5)),
        ]
        browser = _signed_in(many)
        rows += [
            (f"admin, `{page}`", "≤ 300 ms", _milliseconds(partial(_page, browser, page), times=7))
            for page in _lists(browser)
        ]
        rows.append(("gateway process, more than with 10 models", "≤ 50 MB", f"{_gateway_mb(many) - few_mb:.0f} MB"))
        rows.append(("at rest, of one core", "", f"{_load(many):.1f} %"))
    lines = ["| 10,000 models | bar | |", "| --- | ---: | ---: |"]
    return "\n".join([*lines, *(f"| {name} | {bar} | {value} |" for name, bar, value in rows)])


@contextmanager
def _installation(models: int) -> Iterator[Installation]:
    """With so many models, all known and hashed, and at rest."""
    with tempfile.TemporaryDirectory(prefix="nopenai-bench-") as directory:
        Path(directory).chmod(0o755)
        running = Installation(
            Path(directory),
            NOPENAI_STARTER_MODEL="0",
            NOPENAI_ADMIN_PASSWORD=_PASSWORD,
            NOPENAI_LOG_LEVEL="DEBUG",
            NOPENAI_GATEWAY_WORKERS="1",
        )
        _write_models(running.models_dir, models)
        running.start()
        try:
            running.wait_started(_PATIENCE_SECONDS)
            wait_until(lambda: _known(running) == models, _PATIENCE_SECONDS)
            running.wait_for_log(_hashed, _PATIENCE_SECONDS)
            wait_until(lambda: idle(running), _PATIENCE_SECONDS)
            yield running
        finally:
            end(running)


def _write_models(folder: Path, count: int) -> None:
    """The same one under many names: only the name in its header differs."""
    template = gguf_files.write_model(folder / "template", name=_NAME.format(0), words=WORDS, layers=1)
    content = template.read_bytes()
    template.unlink()
    name = _NAME.format(0).encode()
    assert content.count(name) == 1
    for number in range(count):
        own = _NAME.format(number)
        (folder / f"{own}.gguf").write_bytes(content.replace(name, own.encode()))


def _hashed(record: LogRecord) -> bool:
    message = record["message"]
    return message.startswith("Task registry.hash[") and " succeeded " in message


def _known(running: Installation) -> int:
    return len(json.loads(running.get("/v1/models", timeout=30)[1] or b'{"data": []}')["data"])


def _scanned(running: Installation) -> float:
    """Seconds of the scan that found them."""
    records = running.log_records()
    return max(float(record["seconds"]) for record in records if record["message"] == "Models scanned")


def _rescan_seconds(running: Installation) -> float:
    return statistics.median(float(running.post("/api/v1/scan", {})[1]["seconds"]) for _ in range(5))


def _get(running: Installation, path: str) -> None:
    status, _ = running.get(path, timeout=60)
    assert status == 200


def _milliseconds(ask: Callable[[], None], times: int = _ASKED) -> str:
    """Median and longest."""
    ask()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - began)
    return f"{statistics.median(seconds) * 1000:.0f} · {max(seconds) * 1000:.0f} ms"


def _gateway_mb(running: Installation) -> float:
    """The PSS of its largest process, after it has listed all models once."""
    _get(running, "/v1/models")
    sizes = [psutil.Process(pid).memory_full_info().pss for pid in running.children("gateway")]
    return float(max(sizes)) / 2**20


def _load(running: Installation) -> float:
    """Percent of a core that all processes take, over half a minute in which nobody asks for anything."""

    def seconds() -> float:
        return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in running.processes())

    began, before = time.perf_counter(), seconds()
    time.sleep(35)  # what happens every 30 s happens once at least
    return 100 * (seconds() - before) / (time.perf_counter() - began)


def _signed_in(running: Installation) -> httpx.Client:
    """To the admin."""
    browser = httpx.Client(base_url=running.url, follow_redirects=True, timeout=60)
    browser.get("/admin/login/")
    form = {"username": "admin", "password": _PASSWORD, "csrfmiddlewaretoken": browser.cookies["nopenai_csrf"]}
    answer = browser.post("/admin/login/?next=/admin/", data=form, headers={"Referer": running.url})
    assert answer.url.path == "/admin/", "the password was refused"
    return browser


def _lists(browser: httpx.Client) -> list[str]:
    """The admin's first page and all lists that it leads to."""
    lists = set(re.findall(r'href="(/admin/[a-z_]+/[a-z_]+/)"', browser.get("/admin/").text))
    return ["/admin/", *sorted(lists)]


def _page(browser: httpx.Client, path: str) -> None:
    assert browser.get(path).status_code == 200
