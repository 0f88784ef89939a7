"""The servers that are compared, each started for one measurement and stopped after it."""

import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from nopenai_site.environment import PROJECT_ROOT, load
from tests import gguf_files
from tests.bench.environments import HERE, python_of
from tests.installation import Installation, end, free_port, wait_until
from tests.services import running_services

START_SECONDS = 120.0


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
def stub_gateway() -> Iterator[str]:
    """Our gateway in one process with our supervisor behind it; only the worker has no model and answers at once."""
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
        }
        supervisor = [sys.executable, "-m", "tests.integration.supervisor.node", '{"stub": [], "policy": {}}']
        gateway = [sys.executable, "-m", "gunicorn", "--config", "python:nopenai_site.gunicorn_gateway"]
        with running_services(load(variables)):
            prepare = [sys.executable, "manage.py", "prepare"]
            subprocess.run(prepare, cwd=PROJECT_ROOT, env=os.environ | variables, check=True, stdout=subprocess.DEVNULL)
            with _process(supervisor, variables), _process(gateway, variables):
                url = f"http://127.0.0.1:{port}"
                _wait_for(url + "/v1/models/stub")
                yield url


@contextmanager
def llama_server(model: Path, *, threads: int, slots: int, context_tokens: int, cache_mb: int = 0) -> Iterator[str]:
    """``cache_mb``: its prompt cache in RAM; 0: it answers nothing from what it computed before."""
    port = free_port()
    script = HERE / "peers" / "llama_server.py"
    command = [python_of("llama-server"), script, model, port, threads, slots, context_tokens, cache_mb]
    with _process([str(part) for part in command]):
        url = f"http://127.0.0.1:{port}"
        _wait_for(url + "/health")
        yield url


@contextmanager
def stub_upstream() -> Iterator[str]:
    with _uvicorn("stub_upstream:app") as url:
        yield url


@contextmanager
def bare_proxy(upstream: str) -> Iterator[str]:
    with _uvicorn("bare_proxy:app", UPSTREAM=upstream) as url:
        yield url


@contextmanager
def litellm(upstream: str) -> Iterator[str]:
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "config.yaml"
        config.write_text(
            "model_list:\n  - model_name: stub\n    litellm_params:\n      model: openai/stub\n"
            f"      api_base: {upstream}/v1\n      api_key: none\nlitellm_settings:\n  telemetry: false\n"
            # Without keys, as ours on loopback: nobody pays for authentication here.
            "general_settings:\n  dangerously_permit_weak_or_unset_master_key: true\n"
        )
        program = python_of("litellm").with_name("litellm")
        with _process([str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]):
            url = f"http://127.0.0.1:{port}"
            _wait_for(url + "/health/liveliness")
            yield url


@contextmanager
def _uvicorn(application: str, **environment: str) -> Iterator[str]:
    port = free_port()
    options = ["--app-dir", str(HERE / "peers"), "--port", str(port), "--no-access-log", "--log-level", "warning"]
    options += ["--loop", "uvloop", "--http", "httptools", "--lifespan", "off"]
    with _process([sys.executable, "-m", "uvicorn", application, *options], environment):
        url = f"http://127.0.0.1:{port}"
        _wait_for(url + "/")
        yield url


@contextmanager
def _process(command: list[str], environment: Mapping[str, str] = {}) -> Iterator[None]:
    # LiteLLM would fetch a price list from the internet at its start.
    merged = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"} | dict(environment)
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=PROJECT_ROOT, env=merged, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(url: str) -> None:
    """Until somebody answers there, whatever the answer."""

    def answers() -> bool:
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except urllib.error.HTTPError as refusal:
            # llama-server says 503 while it loads, our gateway 404 until it knows the model.
            return refusal.code == 405
        except OSError:
            return False
        return True

    wait_until(answers, START_SECONDS, lambda: f"nobody answers at {url}")
