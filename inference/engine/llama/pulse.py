"""Whether computing gets on, seen from another thread: a call into llama.cpp that never returns looks like one that
takes long."""

import time
from types import TracebackType

_LEAST_SECONDS = 60.0
_TIMES = 2.0
"""As long as it would take if each token of a full batch took as long as the slowest ever did."""


class Pulse:
    """Entered by the thread that computes, for each call; asked by any."""

    __slots__ = ("_began", "_per_token", "_tokens")

    def __init__(self) -> None:
        self._began: float | None = None
        self._tokens = 1
        self._per_token = 0.0
        """Seconds a token, of the slowest call so far. A batch of several takes less for each."""

    def computing(self, tokens: int) -> "Pulse":
        """To be entered while so many tokens are computed."""
        self._tokens = max(1, tokens)
        return self

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        began, self._began = self._began, None
        if began is not None:
            self._per_token = max(self._per_token, (time.monotonic() - began) / self._tokens)

    def stopped(self) -> bool:
        """Whether a call lasts longer than any honest one could."""
        began = self._began  # the other thread may end it meanwhile
        longest = max(_LEAST_SECONDS, _TIMES * self._tokens * self._per_token)
        return began is not None and time.monotonic() - began > longest


pulse = Pulse()
"""Of this process: one thread does all its computing."""
