"""A real ``manage.py up`` for acceptance tests: its own data directory, its own port, nothing faked."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nopenai_site.environment import PROJECT_ROOT
from nopenai_site.environment import load as load_environment
from tests.waiting import wait_until

START_SECONDS = 60.0
STOP_SECONDS = 60.0

# How a child is told among the processes: by what its command line says.
_CHILDREN: Mapping[str, str] = {
    "postgres": "/bin/postgres -D",
    "redis": "redis-server|valkey-server",
    "supervisor": "manage.py supervisor",
    "gateway": "nopenai_site.gunicorn_gateway",
    "web": "nopenai_site.gunicorn_web",
    "celery": "celery .* worker",
    "beat": "celery .* beat",
    "engine": "inference.engine",
}

LogRecord = dict[str, Any]


class Installation:
    """One installation in ``directory``. It may be started and stopped several times; the data stay."""

    def __init__(self, directory: Path, *, prefix: Sequence[str] = (), **environment: str) -> None:
        """``prefix``: of its command, say to run it elsewhere."""
        self._prefix = prefix
        self.data_dir = directory / "data"
        self.models_dir = directory / "models"
        self.log_dir = directory / "logs"
        self.models_dir.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._output = directory / "output"
        self._errors = directory / "errors"
        self._process: subprocess.Popen[bytes] | None = None
        self.environment = _outer_environment() | {
            "NOPENAI_DATA_DIR": str(self.data_dir),
            "NOPENAI_MODELS_DIR": str(self.models_dir),
            "NOPENAI_LOG_DIR": str(self.log_dir),
            "NOPENAI_PORT": str(self.port),
            **environment,
        }

    # --- Start and stop ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to start; see :meth:`wait_started` and :meth:`wait_ready`."""
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [*self._prefix, sys.executable, "manage.py", "up"],
                cwd=PROJECT_ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another ``manage.py`` command with the same environment."""
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=PROJECT_ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
        )

    @property
    def was_started(self) -> bool:
        return self._process is not None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_ready(self, timeout: float = START_SECONDS) -> None:
        """Until ``/health/ready`` says 200: inference works."""
        wait_until(lambda: self.get("/health/ready")[0] == 200, timeout, self._explain, self._still_runs)

    def wait_started(self, timeout: float = START_SECONDS) -> None:
        """Until the web process and Celery run too."""
        wait_until(lambda: "Everything is started" in self.errors, timeout, self._explain, self._still_runs)

    def wait_exit(self, timeout: float = STOP_SECONDS) -> int:
        return self.process.wait(timeout)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """As Ctrl-C does with SIGINT; the exit status."""
        self.process.send_signal(number)  # does nothing once it has ended
        return self.wait_exit()

    @property
    def output(self) -> str:
        """What this run wrote to standard output so far: the start report."""
        return self._output.read_text()

    @property
    def errors(self) -> str:
        """What this run wrote to standard error so far: log lines, or why it did not start."""
        return self._errors.read_text()

    # --- HTTP ----------------------------------------------------------------------------------------------------

    def get(self, path: str, timeout: float = 5.0) -> tuple[int, bytes]:
        """Status and body; status 0 where nobody answers."""
        return self._request(urllib.request.Request(self.url + path), timeout)

    def post(self, path: str, body: object, timeout: float = 60.0, **headers: str) -> tuple[int, Any]:
        """Status and decoded body of a JSON request; status 0 where nobody answers."""
        return self._send("POST", path, body, timeout, headers)

    def patch(self, path: str, body: object, timeout: float = 60.0) -> tuple[int, Any]:
        """As :meth:`post`."""
        return self._send("PATCH", path, body, timeout, {})

    def _send(
        self, method: str, path: str, body: object, timeout: float, headers: Mapping[str, str]
    ) -> tuple[int, Any]:
        request = urllib.request.Request(
            self.url + path,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **headers},
            method=method,
        )
        status, answer = self._request(request, timeout)
        return status, json.loads(answer or b"null")

    def _request(self, request: urllib.request.Request, timeout: float) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as refusal:
            return refusal.code, refusal.read()
        except OSError:
            return 0, b""

    # --- Log -----------------------------------------------------------------------------------------------------

    def log_records(self) -> list[LogRecord]:
        """All complete lines of ``server.log`` so far."""
        path = self.log_dir / "server.log"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith(b"\n")]

    def wait_for_log(self, matches: Callable[[LogRecord], bool], timeout: float = 30.0) -> LogRecord:
        """The first record that ``matches``, as soon as it is there."""
        found: list[LogRecord] = []

        def look() -> bool:
            found.extend(record for record in self.log_records() if matches(record))
            return bool(found)

        wait_until(look, timeout, self._explain)
        return found[0]

    def wait_for_message(self, message: str, timeout: float = 30.0) -> LogRecord:
        """The first record whose message contains ``message``."""
        return self.wait_for_log(lambda record: message in record["message"], timeout)

    # --- Processes -----------------------------------------------------------------------------------------------

    def processes(self) -> dict[int, str]:
        """Command lines, by pid, of all that runs for this data directory: children, their children, orphans."""
        own = f"NOPENAI_DATA_DIR={self.data_dir}\0"
        # Where the data directory's name is too long for a socket's, the sockets lie elsewhere.
        places = (str(self.data_dir), str(load_environment({"NOPENAI_DATA_DIR": str(self.data_dir)}).run_dir))
        running = {int(each.name): each for each in Path("/proc").iterdir() if each.name.isdigit()}
        # A zombie has no command line; it is dead already.
        commands = {pid: line for pid, each in running.items() if (line := _read(each / "cmdline").replace("\0", " "))}
        found = {
            pid
            for pid, command in commands.items()
            if any(place in command for place in places) or own in _read(running[pid] / "environ") + "\0"
        }
        # Who was started as a spare worker has neither: it is told where it belongs when a load takes it.
        found |= {pid for pid, command in commands.items() if "--spare" in command and _parent(pid) in found}
        return {pid: commands[pid] for pid in found}

    def child(self, name: str) -> int:
        """The pid of a child; of several processes (a gunicorn and its workers) the one that ``up`` started.

        One that is just being started again is waited for.
        """
        wait_until(lambda: bool(self.children(name)), 30, self._explain)
        pids = self.children(name)
        direct = [pid for pid in pids if _parent(pid) == self.pid]
        return (direct or pids)[0]

    def children(self, name: str) -> list[int]:
        found = ((pid, command) for pid, command in self.processes().items() if re.search(_CHILDREN[name], command))
        return sorted(pid for pid, command in found if not _waits(pid, command))

    def spares(self) -> list[int]:
        """Workers that wait for a model."""
        return [pid for pid, command in self.processes().items() if _waits(pid, command)]

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to a child; its pid. ``up`` is the parent itself."""
        pid = self.pid if name == "up" else self.child(name)
        os.kill(pid, number)
        return pid

    def wait_gone(self, timeout: float = STOP_SECONDS) -> None:
        """Until no process of this installation is left."""
        wait_until(lambda: not self.processes(), timeout, lambda: f"still there: {self.processes()}")

    def _still_runs(self) -> bool:
        return self.process.poll() is None

    def _explain(self) -> str:
        return f"--- standard output\n{self.output[-3000:]}\n--- standard error\n{self.errors[-6000:]}"


@contextmanager
def running_installation(directory: Path, **environment: str) -> Iterator[Installation]:
    """A started installation, stopped at the end however the test went."""
    installation = Installation(directory, **environment)
    installation.start()
    try:
        installation.wait_started()
        yield installation
    finally:
        end(installation)


def end(installation: Installation) -> None:
    """Stop what still runs of it; nothing may be left."""
    try:
        if installation.was_started:
            installation.stop()
        installation.wait_gone()
    finally:
        for pid in installation.processes():
            os.kill(pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _outer_environment() -> dict[str, str]:
    """Ours without what the tests' own Django was given."""
    inner = ("NOPENAI_", "DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE")
    return {name: value for name, value in os.environ.items() if not name.startswith(inner)}


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""  # ended meanwhile


def _waits(pid: int, command: str) -> bool:
    """Whether it was started as a spare worker, and serves no model yet: then it calls itself by that."""
    name = _read(Path(f"/proc/{pid}/comm")).strip()
    return "--spare" in command and (name == "engine spare" or not name.startswith("engine "))


def _parent(pid: int) -> int:
    match = re.search(r"^PPid:\s+(\d+)", _read(Path(f"/proc/{pid}/status")), re.MULTILINE)
    return int(match[1]) if match else 0
