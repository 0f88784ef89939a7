"""``logs/server.log``: every line of every process, written by one, and shown on the way."""

import logging
import logging.handlers
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from nopenai_site.logs import LEVELS, line
from nopenai_site.up.terminal import Terminal

MAX_BYTES = 64 * 1024 * 1024
KEPT_FILES = 5


class Journal:
    """The single writer of ``server.log``, so that rotation needs no agreement between processes."""

    def __init__(self, log_dir: Path, *, level: str, stream: TextIO = sys.stderr) -> None:
        """Raises OSError when the file can't be opened."""
        log_dir.mkdir(parents=True, exist_ok=True)
        self.path = log_dir / "server.log"
        self._lowest = LEVELS[level]
        self._show = _shower(stream)
        self._file = _File(self.path)

    def write(self, raw: bytes) -> None:
        """One complete log line, without its newline."""
        self._file.append(raw)
        self._show(raw)

    def log(self, level: str, message: str, **fields: object) -> None:
        """A line of our own."""
        if LEVELS[level] >= self._lowest:
            self.write(line(level, "up", message, fields))

    def close(self) -> None:
        self._file.close()


class _File(logging.handlers.RotatingFileHandler):
    """The standard library's rotation, fed with lines that are ready."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=MAX_BYTES, backupCount=KEPT_FILES, encoding="utf-8", errors="replace")
        self._complained = False

    def append(self, raw: bytes) -> None:
        self.emit(logging.makeLogRecord({"msg": raw.decode(errors="replace")}))

    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk must not stop the server; it is said once."""
        if not self._complained:
            self._complained = True
            print(f"{self.baseFilename} can't be written: {sys.exc_info()[1]}", file=sys.stderr)


def _shower(stream: TextIO) -> Callable[[bytes], None]:
    """For people on a terminal; as they are for whatever else collects our standard error."""
    if stream.isatty():
        return Terminal(stream).show

    def as_they_are(raw: bytes) -> None:
        try:
            stream.write(raw.decode(errors="replace") + "\n")
            stream.flush()
        except OSError:
            pass  # whoever read it is gone; the file has it

    return as_they_are
