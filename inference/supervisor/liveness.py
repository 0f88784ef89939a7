"""Whether a worker that runs still does anything: one that is stopped, or whose loop hangs, keeps its connections open,
so that nobody who waits for it would ever hear that it is lost."""

import asyncio
from collections.abc import Callable
from pathlib import Path

ASK_SECONDS = 10.0
"""From one look to the next."""
HELLO_SECONDS = 15.0
"""A worker greets whoever connects at once, however much it computes: that is another thread's work."""

_MISSES = 2
"""In a row. One alone may be ours: we may have been stopped ourselves."""


async def stands_still(socket: Path, looked: Callable[[int], None] = lambda _: None) -> None:
    """Return once the worker at this socket does not greet any more.

    Args:
        looked: is told after each look how many greetings in a row have been missed.
    """
    missed = 0
    while missed < _MISSES:
        await asyncio.sleep(ASK_SECONDS)
        missed = 0 if await _greets(socket) else missed + 1
        looked(missed)


async def _greets(socket: Path) -> bool:
    """Also one that is ending, and has closed its socket: its exit tells that."""
    try:
        async with asyncio.timeout(HELLO_SECONDS):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                await reader.read(1)
            finally:
                writer.close()
    except (FileNotFoundError, ConnectionError):
        return True
    except OSError:  # so is TimeoutError; or so many wait to be let in that nobody more may
        return False
    return True
