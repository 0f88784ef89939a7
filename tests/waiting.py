"""Waiting for what no event tells of: it is looked at again and again until it is so, or until patience ends.

What has an event is waited for by its event; the only sleeps of the tests that wait for anything are here.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_SECONDS = 30.0
"""Nothing takes a tenth of it; a test that runs into it has failed."""

_PAUSE_SECONDS = 0.01


async def until(true: Callable[[], bool]) -> None:
    """Return as soon as ``true`` is.

    Raises:
        TimeoutError: it never was.
    """
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not true():  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(_PAUSE_SECONDS)


async def until_answer(ask: Callable[[], Awaitable[T]], good: Callable[[T], bool] = bool, *, in_a_row: int = 1) -> T:
    """The newest answer as soon as so many in a row are good: where several may answer, each is asked by chance.

    Raises:
        TimeoutError: they never were.
    """
    agreed = 0
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            answer = await ask()
            agreed = agreed + 1 if good(answer) else 0
            if agreed == in_a_row:
                return answer
            await asyncio.sleep(_PAUSE_SECONDS)


def wait_until(
    condition: Callable[[], bool],
    timeout: float,
    explain: Callable[[], str] = lambda: "",
    possible: Callable[[], bool] = lambda: True,
) -> None:
    """Return as soon as ``condition`` holds.

    Raises:
        AssertionError: after ``timeout`` seconds, or once it is not ``possible`` any more; with what ``explain`` says.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        assert possible(), f"it ended\n{explain()}"
        assert time.monotonic() < deadline, f"not within {timeout} s\n{explain()}"
        time.sleep(_PAUSE_SECONDS)
