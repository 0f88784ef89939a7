"""Weights of models that are about to be loaded are read into the page cache while they wait for memory.

The kernel reads beside us (``posix_fadvise``), into memory that it can take back at any time. What would be pushed out
again before it is used is not worth it, so what is read ahead is bounded by what is free.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from inference.memory import available_bytes
from inference.protocol import ModelSpec

_MOST_SHARE = 0.5
"""Of the memory that is available."""


class ReadAhead:
    """Owned by the event loop. Opening a file may take as long as a slow disk likes, so a thread does it."""

    def __init__(self, available: Callable[[], int] = available_bytes) -> None:
        self._available = available
        self._expected: Set[int] = frozenset()
        self._thread = ThreadPoolExecutor(1, "read ahead")

    def expect(self, specs: Iterable[ModelSpec]) -> None:
        """These are all that wait to be loaded; whoever waits since the last call is read."""
        files = {spec.version_pk: spec.files for spec in specs}
        for version_pk in files.keys() - self._expected:
            asyncio.get_running_loop().run_in_executor(self._thread, self._read, files[version_pk])
        self._expected = files.keys()

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _read(self, files: Iterable[str]) -> None:
        left = int(self._available() * _MOST_SHARE)
        for file in files:
            with suppress(OSError):  # its load will say so
                left -= _advise(file, left)


def _advise(file: str, most_bytes: int) -> int:
    """Have the kernel read a file, up to so many bytes of it; how many those are. Raises OSError."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = min(os.fstat(descriptor).st_size, max(0, most_bytes))
        if size:
            os.posix_fadvise(descriptor, 0, size, os.POSIX_FADV_WILLNEED)
        return size
    finally:
        os.close(descriptor)
