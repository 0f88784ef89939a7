"""Log lines for people."""

import json
import os
from collections.abc import Mapping
from typing import Any, TextIO

_COLOURS = {"DEBUG": "2", "INFO": "32", "WARN": "33", "ERROR": "31", "FATAL": "1;31"}

# Their start and stop are of interest when something is wrong; server.log has them.
_QUIET_MODULES = ("postgres", "redis")


class Terminal:
    """A stream that somebody looks at."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._colour = "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"

    def show(self, raw: bytes) -> None:
        try:
            record = json.loads(raw)
        except ValueError:
            record = {"level": "INFO", "message": raw.decode(errors="replace")}
        if record.get("module") in _QUIET_MODULES and record.get("level") in ("DEBUG", "INFO"):
            return
        try:
            self._stream.write(render(record, colour=self._colour) + "\n")
            self._stream.flush()
        except OSError:
            pass  # the terminal was closed; the file has it


def readable(raw: str) -> str:
    """A log line as text for people."""
    try:
        return render(json.loads(raw), colour=False)
    except ValueError:
        return raw


def render(record: Mapping[str, Any], *, colour: bool) -> str:
    """``12:00:00 INFO  model_registry  Model discovered: phi-4  model_id=phi-4``, a traceback on lines of its own."""
    own = dict(record)
    clock = str(own.pop("timestamp", ""))[11:19]
    level = str(own.pop("level", "INFO"))
    module = str(own.pop("module", ""))
    message = str(own.pop("message", ""))
    exception = own.pop("exception", None)
    fields = " ".join(f"{name}={_shown(value)}" for name, value in own.items())
    text = (
        f"{_paint('2', clock, colour)} {_paint(_COLOURS.get(level, '0'), f'{level:<5}', colour)} "
        f"{_paint('36', f'{module:<14}', colour)} {_harmless(message)}"
    )
    if fields:
        text += f"  {_paint('2', _harmless(fields), colour)}"
    if exception:
        text += "\n" + "\n".join(f"    {_harmless(line)}" for line in str(exception).splitlines())
    return text


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False) if " " in text or not text else text


def _harmless(text: str) -> str:
    """Parts of a log line come from clients, and a terminal obeys escape sequences."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _paint(code: str, text: str, colour: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour else text
