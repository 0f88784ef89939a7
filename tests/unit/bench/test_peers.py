"""A peer that can't be had is told with its reason, and takes nobody along."""

import sys
import urllib.request
from pathlib import Path

import pytest

from tests.bench import environments, servers, throughput
from tests.bench.environments import DoesNotRun

ANSWERS = """
import http.server, json, pathlib, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

port = json.loads(pathlib.Path(sys.argv[2]).read_text())["server"]["port"]
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
DIES_AT_ONCE = "import os, signal; print('No room', flush=True); os.kill(os.getpid(), signal.SIGSEGV)"
DIES_WHEN_ASKED = ANSWERS.replace("def do_GET", "def do_POST(self): import os; os.abort()\n    def do_GET")


class ExamplesServer:
    """The peer with another script in the place of its own."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self._script = directory / "server.py"
        patch.setattr(environments, "examples_server", lambda: (Path(sys.executable), self._script))

    def runs(self, script: str) -> None:
        self._script.write_text(script)


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExamplesServer:
    return ExamplesServer(tmp_path, monkeypatch)


def test_one_that_dies_at_its_start_is_told_with_its_signal_and_last_line(peer: ExamplesServer) -> None:
    peer.runs(DIES_AT_ONCE)
    with (
        pytest.raises(DoesNotRun, match=r"it ended with SIGSEGV; its last line: No room"),
        servers.examples_server(Path("m.gguf"), threads=1, slots=1, context_tokens=64),
    ):
        pass


def test_one_that_dies_of_a_request_is_told_too(peer: ExamplesServer) -> None:
    peer.runs(DIES_WHEN_ASKED)
    with (
        pytest.raises(DoesNotRun, match="it ended with SIGABRT"),
        servers.examples_server(Path("m.gguf"), threads=1, slots=1, context_tokens=64) as url,
    ):
        throughput.run(url, throughput.Workload(1, 50, 1), 0)


def test_one_that_answers_wrongly_is_told_with_what_the_client_says(peer: ExamplesServer) -> None:
    peer.runs(ANSWERS)  # 501 to every POST
    with (
        pytest.raises(DoesNotRun, match="a client says: AssertionError: 501"),
        servers.examples_server(Path("m.gguf"), threads=1, slots=1, context_tokens=64) as url,
    ):
        throughput.run(url, throughput.Workload(1, 50, 1), 0)


def test_one_that_runs_is_stopped_at_the_end(peer: ExamplesServer) -> None:
    peer.runs(ANSWERS)
    with servers.examples_server(Path("m.gguf"), threads=1, slots=1, context_tokens=64) as url:
        assert urllib.request.urlopen(url + "/healthz").status == 200
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url + "/healthz")


def test_what_pip_says_is_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "peers").mkdir()
    (tmp_path / "peers" / "requirements-absent.txt").write_text("./absent-1.0.tar.gz\n")
    monkeypatch.setattr(environments, "HERE", tmp_path)
    monkeypatch.setattr(environments, "_ENVIRONMENTS", tmp_path)
    with pytest.raises(DoesNotRun, match=r"pip can't install what it needs: ERROR: .*absent-1\.0"):
        environments.python_of("absent")
    assert not (tmp_path / "absent" / "installed.txt").exists()


def test_the_table_says_that_a_peer_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> tuple[Path, Path]:
        raise DoesNotRun("pip can't download what it needs: ERROR: no network")

    monkeypatch.setattr(environments, "examples_server", refuse)
    cells, remark = throughput.examples_server_cells(threads=1)
    assert cells == [""] * len(throughput.WORKLOADS)
    assert remark == "does not run: pip can't download what it needs: ERROR: no network"
