"""The servers that are compared, each started for one measurement and stopped after it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from prometheus_client.parser import text_string_to_metric_families

from nopenai_site.environment import PROJECT_ROOT, load
from tests import gguf_files
from tests.bench import environments
from tests.bench.environments import HERE, DoesNotRun, python_of
from tests.installation import Installation, end, free_port
from tests.services import running_services
from tests.waiting import wait_until

START_SECONDS = 120.0
_DEATH_SECONDS = 2.0

EXAMPLES_SERVER_BODY = {"logit_bias": {"0": -100, "2": -100, "4": -100}}
"""It knows no ``ignore_eos``: the tokens that would end an answer of SmolLM2's are ruled out one by one."""


@contextmanager
def installation(**environment: str) -> Iterator[Installation]:
    """Our whole product, as `manage.py up` starts it, in a data directory of its own."""
    with tempfile.TemporaryDirectory(prefix="nopenai-bench-") as directory:
        # As root, PostgreSQL runs under another user, who must be able to reach its data directory.
        Path(directory).chmod(0o755)
        running = Installation(Path(directory), **environment)
        running.start()
        try:
            running.wait_started()
            yield running
        finally:
            end(running)


@contextmanager
def stub_gateway(**environment: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Our gateway in one process with our supervisor behind it; only the worker has no model and answers at once.

    Gives its address, and the settings with which commands find it.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="nopenai-bench-") as directory:
        Path(directory).chmod(0o755)
        models = Path(directory) / "models"
        models.mkdir()
        gguf_files.write_model(models / "stub.gguf")
        variables = {
            "NOPENAI_DATA_DIR": f"{directory}/data",
            "NOPENAI_MODELS_DIR": str(models),
            "NOPENAI_LOG_DIR": f"{directory}/logs",
            "NOPENAI_PORT": str(port),
            "NOPENAI_GATEWAY_WORKERS": "1",
            **environment,
        }
        supervisor = [sys.executable, "-m", "tests.integration.supervisor.node", '{"stub": [], "policy": {}}']
        gateway = [sys.executable, "-m", "gunicorn", "--config", "python:nopenai_site.gunicorn_gateway"]
        with running_services(load(variables)):
            prepare = [sys.executable, "manage.py", "prepare"]
            subprocess.run(prepare, cwd=PROJECT_ROOT, env=os.environ | variables, check=True, stdout=subprocess.DEVNULL)
            with _process(supervisor, variables), _process(gateway, variables) as server:
                url = f"http://127.0.0.1:{port}"
                server.wait_for(url + "/health/model/stub")
                yield url, variables


@contextmanager
def llama_server(model: Path, *, threads: int, slots: int, context_tokens: int, cache_mb: int = 0) -> Iterator[str]:
    """``cache_mb``: its prompt cache in RAM; 0: it answers nothing from what it computed before."""
    port = free_port()
    script = HERE / "peers" / "llama_server.py"
    command = [python_of("llama-server"), script, model, port, threads, slots, context_tokens, cache_mb]
    with _process([str(part) for part in command]) as server:
        url = f"http://127.0.0.1:{port}"
        server.wait_for(url + "/health")
        yield url


@contextmanager
def examples_server(model: Path, *, threads: int, slots: int, context_tokens: int) -> Iterator[str]:
    """llama-cpp-python's own batching server.

    Raises:
        DoesNotRun: it can't be installed, does not start, or died while it was asked.
    """
    python, server_py = environments.examples_server()
    port = free_port()
    script = HERE / "peers" / "examples_server.py"
    command = [python, script, server_py, model, port, threads, slots, context_tokens]
    with _process([str(part) for part in command]) as server:
        url = f"http://127.0.0.1:{port}"
        try:
            server.wait_for(url + "/healthz")
            yield url
        except AssertionError as fault:
            raise DoesNotRun(server.epitaph or str(fault)) from fault
        except subprocess.CalledProcessError as fault:
            raise DoesNotRun(server.epitaph or f"a client says: {_exception(fault.stderr)}") from fault


@contextmanager
def stub_upstream() -> Iterator[str]:
    with _uvicorn("stub_upstream:app") as url:
        yield url


@contextmanager
def bare_proxy(upstream: str) -> Iterator[str]:
    with _uvicorn("bare_proxy:app", UPSTREAM=upstream) as url:
        yield url


@contextmanager
def litellm(upstream: str, *, limited: bool = False) -> Iterator[str]:
    """``limited``: each request has a key, and the key limits."""
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "config.yaml"
        config.write_text(
            "model_list:\n  - model_name: stub\n    litellm_params:\n      model: openai/stub\n"
            f"      api_base: {upstream}/v1\n      api_key: none\nlitellm_settings:\n  telemetry: false\n"
            # Without keys, as ours on loopback: nobody pays for authentication here.
            "general_settings:\n  dangerously_permit_weak_or_unset_master_key: true\n"
            + ("  custom_auth: litellm_auth.user_api_key_auth\n" if limited else "")
        )
        shutil.copy(HERE / "peers" / "litellm_auth.py", directory)
        program = python_of("litellm").with_name("litellm")
        with _process([str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]) as server:
            url = f"http://127.0.0.1:{port}"
            server.wait_for(url + "/health/liveliness")
            yield url


@contextmanager
def sglang_router(upstream: str) -> Iterator[str]:
    """SGLang's gateway, in Rust: one process with as many threads as it likes."""
    port, prometheus_port = free_port(), free_port()
    command = [str(python_of("sglang-router")), "-m", "sglang_router.launch_router", "--worker-urls", upstream]
    command += ["--policy", "round_robin", "--port", str(port), "--prometheus-port", str(prometheus_port)]
    with _process([*command, "--log-level", "warn"]) as server:
        url = f"http://127.0.0.1:{port}"
        server.wait_for(url + "/readiness")
        yield url


def metrics(url: str, path: str, key: str) -> dict[str, float]:
    """Sums over labels, by name."""
    request = urllib.request.Request(url + path, headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=10) as response:
        text = response.read().decode()
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


@contextmanager
def _uvicorn(application: str, **environment: str) -> Iterator[str]:
    port = free_port()
    options = ["--app-dir", str(HERE / "peers"), "--port", str(port), "--no-access-log", "--log-level", "warning"]
    options += ["--loop", "uvloop", "--http", "httptools", "--lifespan", "off"]
    with _process([sys.executable, "-m", "uvicorn", application, *options], environment) as server:
        url = f"http://127.0.0.1:{port}"
        server.wait_for(url + "/")
        yield url


def _exception(traceback: str) -> str:
    """The line that names it."""
    named: list[str] = re.findall(r"^[\w.]+(?:Error|Exception)\b.*", traceback, re.MULTILINE)
    return named[-1] if named else traceback.strip().rpartition("\n")[2]


class _Process:
    """A server that was started, and what it writes."""

    def __init__(self, process: subprocess.Popen[bytes], output: IO[bytes]) -> None:
        self._process = process
        self._output = output

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    @property
    def epitaph(self) -> str:
        """How it ended, and its last line; empty: it did not. Its connections may break a little before it is gone."""
        try:
            status = self._process.wait(_DEATH_SECONDS)
        except subprocess.TimeoutExpired:
            return ""
        how = f"it ended with {signal.Signals(-status).name}" if status < 0 else f"it ended with status {status}"
        lines = self._said().splitlines()
        return f"{how}; its last line: {lines[-1]}" if lines else how

    def wait_for(self, url: str) -> None:
        """Until somebody answers there, whatever the answer.

        Raises:
            AssertionError: the process has ended, or nobody answers in time.
        """

        def answers() -> bool:
            try:
                urllib.request.urlopen(url, timeout=2).close()
            except urllib.error.HTTPError as refusal:
                # llama-server says 503 while it loads, our gateway 404 until it knows the model.
                return refusal.code == 405
            except OSError:
                return False
            return True

        wait_until(
            answers, START_SECONDS, lambda: f"nobody answers at {url}\n{self._said()[-2000:]}", lambda: self.runs
        )

    def _said(self) -> str:
        # Not read(): that would move the place where the process writes, which it shares with us.
        content = os.pread(self._output.fileno(), os.fstat(self._output.fileno()).st_size, 0)
        return content.decode(errors="replace").strip()


@contextmanager
def _process(command: list[str], environment: Mapping[str, str] = {}) -> Iterator[_Process]:
    # LiteLLM would fetch a price list from the internet at its start.
    merged = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"} | dict(environment)
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=PROJECT_ROOT, env=merged, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield _Process(process, output)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
