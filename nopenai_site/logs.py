"""Logging of every process: one JSON object a line on standard error, which ``manage.py up`` collects.

The fields come in the order ``timestamp`` (ISO 8601, UTC), ``level``, ``module``, ``message``, then the event's own.
Whoever logs through the standard library (Django, Celery, gunicorn) ends in the same lines.
"""

import json
import logging
import sys
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, BinaryIO

import msgspec
import structlog

from quotas.callers import SECRET_PREFIX, secrets_cut

LEVELS: dict[str, int] = {
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARN": logging.WARNING,
    "ERROR": logging.ERROR,
    "FATAL": logging.CRITICAL,
}
_NAMES: Mapping[str, str] = {
    "debug": "DEBUG",
    "info": "INFO",
    "warn": "WARN",
    "warning": "WARN",
    "error": "ERROR",
    "exception": "ERROR",
    "critical": "FATAL",
    "fatal": "FATAL",
}

# These say at INFO what is of interest to their own developers only.
_QUIETED = (
    "amqp", "asyncio", "celery.beat", "django.db.backends", "kombu", "psycopg.pool", "urllib3", "watchfiles",
    "django.template",  # each variable that a page of the admin leaves unset, with a traceback: 80 % of the page's time
)  # fmt: skip

_SECRET_PREFIX = SECRET_PREFIX.encode()

_encoder = msgspec.json.Encoder(enc_hook=str)

_more_fields: list[Callable[[], Mapping[str, Any]]] = []


def configure(level: str, *, module: str | None = None, stream: BinaryIO | None = None) -> None:
    """Set up structlog and the standard library's logging for this process.

    Args:
        level: one of :data:`LEVELS`; what is below is not made at all.
        module: the module that lines of the standard library's loggers are filed under; by default the name of
            the package that wrote them.
        stream: where to, by default standard error.
    """
    number = LEVELS[level]
    output = stream or sys.stderr.buffer
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, _render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.BytesLoggerFactory(output),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [_LineHandler(output, module)]
    root.setLevel(number)
    for name in _QUIETED:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
    logging.captureWarnings(True)
    sys.excepthook = _uncaught(module)


def add_fields(fields: Callable[[], Mapping[str, Any]]) -> None:
    """Every line of this process has these, too, as they are at its time."""
    _more_fields.append(fields)


def line(level: str, module: str, message: str, fields: Mapping[str, Any] | None = None) -> bytes:
    """One log line, without its newline. ``level`` is one of :data:`LEVELS`."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    record = {"timestamp": now, "level": level, "module": module, "message": message, **(fields or {})}
    try:
        written = _encoder.encode(record)
    except (ValueError, TypeError):
        # A file's name that is not UTF-8, a key that is not a string: a log call never fails for what it is given.
        written = json.dumps(record, default=str, skipkeys=True).encode()
    # Somebody's key, in a path or in a message of another program: whoever reads logs must not learn it.
    return secrets_cut(written.decode()).encode() if _SECRET_PREFIX in written else written


def _render(_logger: object, method: str, event: MutableMapping[str, Any]) -> bytes:
    """structlog's last processor."""
    message = str(event.pop("event", ""))
    module = str(event.pop("module", "nopenai"))
    exception = _exception_text(event.pop("exc_info", None))
    if exception:
        event["exception"] = exception
    for fields in _more_fields:
        event.update(fields())
    return line(_NAMES.get(method, "INFO"), module, message, event)


class _LineHandler(logging.Handler):
    """The standard library's way into the same lines."""

    def __init__(self, output: BinaryIO, module: str | None) -> None:
        super().__init__()
        self._output = output
        self._module = module

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields = structlog.contextvars.get_contextvars()
            for more in _more_fields:
                fields |= more()
            if record.exc_info:
                fields["exception"] = _exception_text(record.exc_info)
            module = self._module or record.name.partition(".")[0]
            self._output.write(line(_level_name(record.levelno), module, record.getMessage(), fields) + b"\n")
            self._output.flush()
        except Exception:  # as logging's own handlers do: a line that can't be written fails nobody's work
            self.handleError(record)


def _level_name(number: int) -> str:
    """The highest of our levels that is not above ``number``."""
    return next((name for name, value in reversed(LEVELS.items()) if number >= value), "DEBUG")


def _exception_text(exc_info: object) -> str:
    """``exc_info`` in any of the forms that logging knows, as a traceback; empty where there is none."""
    if exc_info is True:
        exc_info = sys.exc_info()
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    return "".join(traceback.format_exception(exc_info)).rstrip() if isinstance(exc_info, BaseException) else ""


def _uncaught(module: str | None) -> Callable[[type[BaseException], BaseException, TracebackType | None], None]:
    """A ``sys.excepthook``: a process that dies of an exception leaves one line, not thirty."""

    def hook(kind: type[BaseException], fault: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, fault, trace)
            return
        log = structlog.get_logger(module=module or "nopenai")
        log.critical(f"Stopped by an error: {kind.__name__}: {fault}", exc_info=fault)

    return hook
