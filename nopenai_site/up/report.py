"""What a start tells the operator: pure text."""

from collections.abc import Sequence
from urllib.parse import urlsplit, urlunsplit

from nopenai_site.environment import LOOPBACK_HOSTS, Environment
from nopenai_site.up.listener import url

EMBEDDED = "embedded"


def settings(environment: Environment) -> str:
    """Every setting that is in force and where it came from, secrets masked."""
    rows = list(_rows(environment))
    name_width = max(len(name) for name, _, _ in rows)
    value_width = min(44, max(len(value) for _, value, _ in rows))
    lines = [f"  {name:<{name_width}}  {value:<{value_width}}  {source}" for name, value, source in rows]
    return "\n".join(["Settings in force (name, value, where from):", *lines])


def address(environment: Environment) -> str:
    """The URL for people: ``localhost`` where that is what it is."""
    host = "localhost" if environment.host in (*LOOPBACK_HOSTS, "0.0.0.0", "::") else environment.host
    return url(host, environment.port)


def login(user: str, password: str | None) -> str:
    """The first run's administrator. A password that the operator chose is not repeated."""
    if password is None:
        return f"First start: the administrator is {user}, with the password of NOPENAI_ADMIN_PASSWORD"
    return (
        f"First start: the administrator is {user}, the password {password}\n"
        f"  It is shown this once; change it in the admin, or with: .venv/bin/python manage.py changepassword {user}"
    )


def serving(environment: Environment, *, seconds: float, reasons: Sequence[str] = ()) -> str:
    """The end of a start: where it is, what is wrong with it if anything, and one request to copy."""
    base = address(environment)
    state = "runs, but is not well," if reasons else "is ready"
    return "\n".join(
        [
            f"nOpenAI Server {state} after {seconds:.1f} s: {base}   admin: {base}/admin/",
            *(f"  - {reason}" for reason in reasons),
            "",
            "Make your first request:",
            "",
            first_request(base, needs_key=environment.require_api_key),
            "",
            f"Logs: {environment.log_dir / 'server.log'}   Stop: Ctrl-C",
        ]
    )


def first_request(base: str, *, needs_key: bool) -> str:
    """A curl to copy, as it is in the user guide."""
    headers = ['-H "Content-Type: application/json"']
    notes = []
    if needs_key:
        headers.append('-H "Authorization: Bearer $NOPENAI_KEY"')
        notes.append("  # NOPENAI_KEY is a key made in the admin, or by: .venv/bin/python manage.py keys create")
    head = " \\\n    ".join([f"  curl {base}/v1/chat/completions", *headers])
    body = """-d '{
      "model": "auto",
      "messages": [{"role": "user", "content": "Hello!"}]
    }'"""
    return "\n".join([*notes, f"{head} \\\n    {body}"])


def _rows(environment: Environment) -> Sequence[tuple[str, str, str]]:
    shown = {
        "DATABASE_URL": _masked(environment.database_url),
        "REDIS_URL": _masked(environment.redis_url),
        "NOPENAI_DATA_DIR": str(environment.data_dir),
        "NOPENAI_MODELS_DIR": ":".join(map(str, environment.models_dirs)),
        "NOPENAI_LOG_DIR": str(environment.log_dir),
        "NOPENAI_STARTER_MODEL": _flag(environment.starter_model),
        "NOPENAI_HOST": environment.host,
        "NOPENAI_PORT": str(environment.port),
        "NOPENAI_ADMIN_USER": environment.admin_user,
        "NOPENAI_ADMIN_PASSWORD": "********" if environment.admin_password else "random, on the first start",
        "NOPENAI_REQUIRE_API_KEY": _flag(environment.require_api_key),
        "NOPENAI_GATEWAY_WORKERS": str(environment.gateway_workers),
        "NOPENAI_NODE_NAME": environment.node_name,
        "NOPENAI_NODE_RAM_MB": str(environment.node_ram_mb),
        "NOPENAI_SPARE_WORKER": str(int(environment.spare_worker)),
        "NOPENAI_NODE_ADDRESS": str(environment.node_address or "none"),
        "NOPENAI_IDLE_UNLOAD_SEC": str(environment.idle_unload_sec),
        "NOPENAI_TIME_ZONE": environment.time_zone,
        "NOPENAI_LOG_LEVEL": environment.log_level,
        "NOPENAI_PROFILE": _flag(environment.profile),
        "NOPENAI_RECORD_ARRIVALS": _flag(environment.record_arrivals),
        "NOPENAI_REMOTE_NETWORKS": ", ".join(map(str, environment.remote_networks)) or "none",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "none: no traces"
        if environment.traces is None
        else _masked(environment.traces.url),
    }
    return [(name, value, environment.sources.get(name, "default")) for name, value in shown.items()]


def _masked(address: str | None) -> str:
    """A URL without its password, wherever it stands: before the host or among the parameters."""
    if address is None:
        return EMBEDDED
    parts = urlsplit(address)
    user, at, host = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    query = "&".join("password=********" if part.startswith("password=") else part for part in parts.query.split("&"))
    return urlunsplit((parts.scheme, f"{name}{':********' if colon else ''}{at}{host}", parts.path, query, ""))


def _flag(value: bool) -> str:
    return "1" if value else "0"
