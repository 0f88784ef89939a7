"""The environment, parsed once.

Everything that an operator sets through environment variables is read here and nowhere else. A bad value stops the
start with the variable's name and the fix; :func:`load` collects all faults, so that one start shows all of them.
"""

import hashlib
import os
import tempfile
import zoneinfo
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlsplit

from inference.memory import available_bytes
from inference.traces.settings import TraceSettings
from nopenai_site.tracing_environment import trace_settings
from registry.backends.addresses import SETTING, Network
from registry.nodes.doors import Address, address

PROJECT_ROOT = Path(__file__).resolve().parent.parent

LOG_LEVELS = ("DEBUG", "INFO", "WARN", "ERROR", "FATAL")
LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")

# sockaddr_un.sun_path holds 108 bytes with its NUL; the longest name we put below the run directory is
# "engine-<20 digits>.sock" or PostgreSQL's "servers/.s.PGSQL.5432.lock", both under 32 bytes.
_LONGEST_RUN_DIR = 107 - 32

T = TypeVar("T")


class BadEnvironment(Exception):
    """One or more variables have values that we can't start with. ``str()`` is meant for the operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The settings of one installation, in the units that their names carry."""

    database_url: str | None
    redis_url: str | None
    data_dir: Path
    models_dirs: tuple[Path, ...]
    log_dir: Path
    starter_model: bool
    host: str
    port: int
    admin_user: str
    admin_password: str | None
    require_api_key: bool
    gateway_workers: int
    node_name: str
    node_ram_mb: int
    node_address: Address | None
    """Where other nodes reach this one. None: there are none."""
    spare_worker: bool
    """A process waits for the next model to be loaded."""
    idle_unload_sec: int
    time_zone: str
    log_level: str
    profile: bool
    record_arrivals: bool
    remote_networks: tuple[Network, ...]
    """Private ones in which backends elsewhere may be."""
    traces: TraceSettings | None
    """Where spans go. None: none are made."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Variable name → ``"default"`` or ``"environment"``, for the start's report of what is in force."""

    @property
    def run_dir(self) -> Path:
        """Where the Unix sockets live: below the data directory unless that makes a socket's path too long.

        Nor may it have a comma, at which libpq cuts what it takes for a list of hosts.
        """
        inside = self.data_dir / "run"
        if len(os.fsencode(inside)) <= _LONGEST_RUN_DIR and "," not in str(inside):
            return inside
        digest = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"nopenai-{os.getuid()}-{digest}"

    @property
    def own_url(self) -> str:
        """Where processes of this machine reach the gateway."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def servers_dir(self) -> Path:
        """Where PostgreSQL and Redis put their sockets: it belongs to the account they run as, which root's may not."""
        return self.run_dir / "servers"

    @property
    def supervisor_socket(self) -> Path:
        return self.run_dir / "supervisor.sock"

    @property
    def web_socket(self) -> Path:
        return self.run_dir / "web.sock"

    @property
    def leases_dir(self) -> Path:
        """Where gateways write down what they have charged to their leases, for whoever outlives them."""
        return self.data_dir / "leases"

    @property
    def arrivals_dir(self) -> Path:
        """Where gateways record what requests came, if they do."""
        return self.log_dir / "arrivals"


def embedded_database_url(environment: Environment) -> str:
    """Where `manage.py up` makes PostgreSQL listen when ``DATABASE_URL`` is unset: a Unix socket, not the network."""
    return f"postgresql://nopenai@/nopenai?host={quote(str(environment.servers_dir), safe='')}"


def embedded_redis_url(environment: Environment) -> str:
    """Where `manage.py up` makes Redis listen when ``REDIS_URL`` is unset (the form that redis-py understands)."""
    return f"unix://{quote(str(environment.servers_dir / 'redis.sock'))}"


def load(variables: Mapping[str, str] | None = None) -> Environment:
    """Parse ``variables`` (by default the process's own).

    Raises:
        BadEnvironment: naming every variable that is wrong, and how to put it right.
    """
    reader = _Reader(os.environ if variables is None else variables)
    host = reader.read("NOPENAI_HOST", "127.0.0.1", _text)
    loopback = host in LOOPBACK_HOSTS or host.startswith("127.")
    environment = Environment(
        database_url=reader.read("DATABASE_URL", None, _url("postgresql", "postgres")),
        redis_url=reader.read("REDIS_URL", None, _url("redis", "rediss", "unix")),
        data_dir=reader.read("NOPENAI_DATA_DIR", PROJECT_ROOT / "var", path),
        models_dirs=reader.read("NOPENAI_MODELS_DIR", (PROJECT_ROOT / "vendor" / "layerModels",), _paths),
        log_dir=reader.read("NOPENAI_LOG_DIR", PROJECT_ROOT / "logs", path),
        starter_model=reader.read("NOPENAI_STARTER_MODEL", True, _flag),
        host=host,
        port=reader.read("NOPENAI_PORT", 8080, _whole(1, 65_535)),
        admin_user=reader.read("NOPENAI_ADMIN_USER", "admin", _text),
        admin_password=reader.read("NOPENAI_ADMIN_PASSWORD", None, _text),
        require_api_key=reader.read("NOPENAI_REQUIRE_API_KEY", not loopback, _flag),
        gateway_workers=reader.read("NOPENAI_GATEWAY_WORKERS", max(1, (os.cpu_count() or 1) // 2), _whole(1, 64)),
        node_name=reader.read("NOPENAI_NODE_NAME", os.uname().nodename or "node", _text),
        node_ram_mb=reader.read("NOPENAI_NODE_RAM_MB", max(64, available_bytes() >> 20) * 8 // 10, _whole(64, 1 << 24)),
        node_address=reader.read("NOPENAI_NODE_ADDRESS", None, address),
        spare_worker=reader.read("NOPENAI_SPARE_WORKER", True, _flag),
        idle_unload_sec=reader.read("NOPENAI_IDLE_UNLOAD_SEC", 900, _whole(0, 10**8)),
        time_zone=reader.read("NOPENAI_TIME_ZONE", "UTC", _zone),
        log_level=reader.read("NOPENAI_LOG_LEVEL", "INFO", _one_of(*LOG_LEVELS)),
        profile=reader.read("NOPENAI_PROFILE", False, _flag),
        record_arrivals=reader.read("NOPENAI_RECORD_ARRIVALS", False, _flag),
        remote_networks=reader.read(SETTING, (), _networks),
        traces=trace_settings(reader),
        sources=reader.sources,
    )
    if not loopback and not environment.require_api_key:
        reader.faults.append(
            f"NOPENAI_REQUIRE_API_KEY=0 with NOPENAI_HOST={host} would let anyone on the network in: "
            "leave it unset, or listen on 127.0.0.1"
        )
    if environment.node_address is not None and None in (environment.database_url, environment.redis_url):
        reader.faults.append(
            "NOPENAI_NODE_ADDRESS is for a node among others, which share one PostgreSQL and one Redis: set "
            "DATABASE_URL and REDIS_URL, too"
        )
    if reader.faults:
        raise BadEnvironment("\n".join(reader.faults))
    return environment


class _Reader:
    """Reads variables one by one, keeping where each value came from and what was wrong."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        self.sources: dict[str, str] = {}
        self.faults: list[str] = []

    def read(self, name: str, default: T, parse: Callable[[str], T]) -> T:
        """An empty variable counts as unset: it is what an unfilled line of a compose file becomes."""
        raw = self._variables.get(name, "").strip()
        self.sources[name] = "environment" if raw else "default"
        if not raw:
            return default
        try:
            return parse(raw)
        except ValueError as fault:
            # The value itself is shown only for settings that can't hold a secret.
            shown = "" if name.endswith(("_URL", "_PASSWORD", "_HEADERS", "_ENDPOINT")) else f"={raw}"
            self.faults.append(f"{name}{shown} is not valid: {fault}")
            return default


def _text(raw: str) -> str:
    return raw


def path(raw: str) -> Path:
    """A path as it stands in a variable: relative to the project's root."""
    return (PROJECT_ROOT / Path(raw).expanduser()).resolve()


def _paths(raw: str) -> tuple[Path, ...]:
    return tuple(path(part) for part in raw.split(":") if part)


def _flag(raw: str) -> bool:
    values = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if raw.lower() not in values:
        raise ValueError("use 1 or 0")
    return values[raw.lower()]


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(raw: str) -> int:
        if not raw.isascii() or not raw.isdigit() or not low <= int(raw) <= high:
            raise ValueError(f"use a whole number from {low} to {high}")
        return int(raw)

    return parse


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(raw: str) -> str:
        if raw.upper() not in allowed:
            raise ValueError(f"use one of {', '.join(allowed)}")
        return raw.upper()

    return parse


def _url(*schemes: str) -> Callable[[str], str]:
    def parse(raw: str) -> str:
        if urlsplit(raw).scheme not in schemes:
            raise ValueError(f"use a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return raw

    return parse


def _networks(raw: str) -> tuple[Network, ...]:
    try:
        return tuple(ip_network(part) for part in raw.replace(",", " ").split())
    except ValueError as fault:
        raise ValueError(f"use networks such as 10.0.0.0/8, separated by commas ({fault})") from fault


def _zone(raw: str) -> str:
    try:
        zoneinfo.ZoneInfo(raw)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as fault:
        raise ValueError("use a name such as UTC or Asia/Dubai") from fault
    return raw
