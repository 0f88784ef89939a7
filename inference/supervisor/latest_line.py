"""Tells a process the newest of something, one line at a time, without ever waiting for it."""

import asyncio
import os
import select
from contextlib import suppress


class LatestLine:
    """The writing end of a pipe to a process that reads when it likes: what it has not read yet is replaced by what is
    said later, up to what the kernel's buffer has already taken. Belongs to the running loop.
    """

    def __init__(self) -> None:
        self._pipe: int | None = None
        self._unsaid: bytes | None = None
        self._waiting = False

    def open(self, pipe: int) -> None:
        """Say it through this descriptor, which stays the caller's to close, after :meth:`close`."""
        os.set_blocking(pipe, False)
        self._pipe = pipe
        self._write()

    def say(self, line: bytes) -> None:
        """``line`` is without its newline, and short enough that the kernel takes it whole or not at all."""
        assert len(line) < select.PIPE_BUF
        self._unsaid = line + b"\n"
        self._write()

    def close(self) -> None:
        self._stop_waiting()
        self._pipe = None

    def _write(self) -> None:
        if self._pipe is None or self._unsaid is None:
            return
        try:
            os.write(self._pipe, self._unsaid)
        except BlockingIOError:
            self._wait()
            return
        except BrokenPipeError:
            pass  # it closed its standard input or is gone, which its exit will tell
        self._unsaid = None
        self._stop_waiting()

    def _wait(self) -> None:
        if not self._waiting and self._pipe is not None:
            self._waiting = True
            asyncio.get_running_loop().add_writer(self._pipe, self._write)

    def _stop_waiting(self) -> None:
        if self._waiting and self._pipe is not None:
            self._waiting = False
            with suppress(RuntimeError):  # the loop is closed
                asyncio.get_running_loop().remove_writer(self._pipe)
