"""What children write, made into log lines: pure.

Our own processes write JSON lines, which pass unchanged; engine workers, who share no code with us, write theirs with
the fields in another order. PostgreSQL and Redis have formats of their own, and anything may print a traceback when it
dies early.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from nopenai_site.logs import LEVELS, line

Wrap = Callable[[str], tuple[str, str]]
"""A foreign line → level, message."""

_POSTGRES = re.compile(r"^([A-Z0-9]+):\s+(.*)$", re.DOTALL)
_POSTGRES_LEVELS = {
    "LOG": "INFO",
    "INFO": "INFO",
    "NOTICE": "INFO",
    "WARNING": "WARN",
    "ERROR": "ERROR",
    "FATAL": "ERROR",  # fatal to one connection
    "PANIC": "FATAL",
}
_REDIS = re.compile(r"^\d+:\S+ .*?\d\d:\d\d:\d\d\.\d+ ([.\-*#]) (.*)$", re.DOTALL)
_REDIS_SIGNAL = re.compile(r"^\d+:signal-handler \(\d+\) (.*)$", re.DOTALL)
_REDIS_LEVELS = {".": "DEBUG", "-": "DEBUG", "*": "INFO", "#": "WARN"}
# Redis marks its banner and its good-bye as warnings; and how a background save would fare is no matter where nothing
# is ever saved.
_REDIS_BANNER = (
    "oO0OoO0OoO0Oo",
    "Redis version=",
    "Configuration loaded",
    "Server initialized",
    "WARNING Memory overcommit",
    "WARNING overcommit_memory",
)
_REDIS_GOOD_BYE = ("User requested shutdown", "Redis is now ready to exit", "Received SIG")


def as_log_line(raw: bytes, *, module: str, wrap: Wrap, lowest: str) -> bytes | None:
    """``raw``, a line without its newline, as a line of the log; None for what is empty or below ``lowest``."""
    if is_log_line(raw):
        return raw
    text = raw.decode(errors="replace").rstrip()
    if not text:
        return None
    record = _as_record(text)
    if record is None:
        level, message = wrap(text)
        record = {"level": level, "module": module, "message": message}
    if LEVELS.get(record["level"], LEVELS["WARN"]) < LEVELS[lowest]:
        return None
    own = {name: value for name, value in record.items() if name not in ("level", "module", "message")}
    return line(record["level"], record.get("module", module), record["message"], own)


class Tracebacks:
    """Python's own report of an exception, put back into one piece: its lines belong together, and to one record."""

    _FIRST = b"Traceback (most recent call last):"
    _MOST_LINES = 1000

    def __init__(self, module: str) -> None:
        self._module = module
        self._lines: list[bytes] = []

    def feed(self, raw: bytes) -> bytes | None:
        """``raw`` itself when it is no part of a traceback, the record when it is its last line, else None."""
        if not self._lines and not raw.startswith(self._FIRST):
            return raw
        self._lines.append(raw)
        indented = raw.startswith((b" ", b"\t", self._FIRST)) or not raw
        return None if indented and len(self._lines) < self._MOST_LINES else self.end()

    def end(self) -> bytes | None:
        """What has come so far; None if that is nothing."""
        if not self._lines:
            return None
        text = b"\n".join(self._lines).decode(errors="replace")
        self._lines = []
        return line("ERROR", self._module, text.rpartition("\n")[2], {"exception": text})


def is_log_line(raw: bytes) -> bool:
    """Whether one of our own processes wrote it. Cheap on purpose: every line of a busy gateway comes by here."""
    return raw.startswith(b'{"timestamp":') and raw.endswith(b"}")


def _as_record(text: str) -> dict[str, Any] | None:
    """A JSON object that can be made a log line of."""
    if not text.startswith("{"):
        return None
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record.get("message"), str) and isinstance(record.get("level"), str) else None


def plain(text: str) -> tuple[str, str]:
    """Whatever a process of ours prints outside its log is worth a look."""
    return "WARN", text


def postgres(text: str) -> tuple[str, str]:
    match = _POSTGRES.match(text)
    if match is None:
        return "INFO", text
    return _POSTGRES_LEVELS.get(match[1], "INFO"), match[2]


def redis(text: str) -> tuple[str, str]:
    if signalled := _REDIS_SIGNAL.match(text):
        return "INFO", signalled[1]
    match = _REDIS.match(text)
    if match is None:
        return "INFO", text
    message = match[2]
    if message.startswith(_REDIS_BANNER):
        return "DEBUG", message
    return "INFO" if message.startswith(_REDIS_GOOD_BYE) else _REDIS_LEVELS[match[1]], message


def celery(text: str) -> tuple[str, str]:
    """It prints that it was asked to stop, beside its log."""
    return ("INFO", text) if text.startswith("worker: ") else plain(text)
