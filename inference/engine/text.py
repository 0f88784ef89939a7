"""Token bytes → text that may be sent: whole characters only, and nothing of a stop string."""

import codecs
from collections.abc import Sequence


class TextStream:
    """The output of one sequence.

    Bytes of an unfinished character are held until the character is whole; text that might be the beginning of a stop
    string is held until it is clear that it isn't.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stops)
        # Bytes that are no UTF-8 at all become U+FFFD instead of ending the stream.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False
        """A stop string was met; everything after it is dropped."""
        self.decoded = 0
        """Characters that are whole so far."""
        self.sent = 0
        """Of those, how many :meth:`push` and :meth:`finish` have given out."""

    def push(self, piece: bytes) -> str:
        """The text that can be sent now that ``piece`` was generated."""
        if self.stopped:
            return ""
        new = self._decoder.decode(piece)
        self.decoded += len(new)
        text = self._held + new
        end = self._find_stop(text)
        if end is not None:
            self.stopped = True
            self._held = ""
        else:
            keep = self._undecided(text)
            self._held = text[len(text) - keep :] if keep else ""
            end = len(text) - keep
        self.sent += end
        return text[:end]

    def finish(self) -> str:
        """What was held back, now that no more comes. A character cut off by the end is left out."""
        text, self._held = self._held, ""
        self.sent += len(text)
        return text

    def _find_stop(self, text: str) -> int | None:
        """Where the earliest stop string begins."""
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        return min(places, default=None)

    def _undecided(self, text: str) -> int:
        """Length of the longest end of ``text`` that begins a stop string."""
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:length]):
                    longest = length
                    break
        return longest
