"""Bytes → the data of server-sent events, whatever the sizes of the pieces they come in. Pure.

By the WHATWG's standard, of which backends use the least part: lines of ``data:``, an empty line after each event.
"""

MOST_EVENT_BYTES = 1024 * 1024
"""A backend that sends more without an end is not waited for."""


class Garbled(Exception):
    """What a backend sends is not what it should be. ``str()`` says what is wrong with it."""


class EventDecoder:
    __slots__ = ("_buffer", "_data")

    def __init__(self) -> None:
        self._buffer = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of the events that ``piece`` completes.

        Raises:
            Garbled: one is too long.
        """
        lines = (self._buffer + piece).split(b"\n")
        self._buffer = lines.pop()
        events = [event for line in lines if (event := self._line(line.removesuffix(b"\r"))) is not None]
        if len(self._buffer) + sum(map(len, self._data)) > MOST_EVENT_BYTES:
            raise Garbled(f"an event of more than {MOST_EVENT_BYTES >> 20} MiB")
        return events

    def _line(self, line: bytes) -> bytes | None:
        """The event that an empty line ends; comments and other fields say nothing to us."""
        if not line:
            data, self._data = self._data, []
            return b"\n".join(data) if data else None
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        return None
