"""How often something is done that is asked for all the time."""

import asyncio

from inference.supervisor.throttle import Throttle

SECONDS = 0.05


class Acts:
    """When it was done."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.times: list[float] = []
        self._done = asyncio.Event()

    def __call__(self) -> None:
        self.times.append(self._loop.time())
        self._done.set()

    async def next(self) -> None:
        async with asyncio.timeout(10):
            await self._done.wait()
        self._done.clear()


async def test_it_is_done_at_once_and_once_for_all_who_ask_together() -> None:
    acts = Acts()
    throttle = Throttle(acts, 3600)
    for _ in range(3):
        throttle.ask()
    assert not acts.times, "whoever asks goes on first"
    await acts.next()
    assert len(acts.times) == 1
    throttle.close()


async def test_it_is_done_again_when_its_time_has_passed_and_not_before() -> None:
    acts = Acts()
    throttle = Throttle(acts, SECONDS)
    for _ in range(3):
        throttle.ask()
        await acts.next()
    pauses = [later - earlier for earlier, later in zip(acts.times, acts.times[1:], strict=False)]
    assert min(pauses) >= SECONDS - 0.01  # the loop's clock is that coarse


async def test_what_is_closed_does_nothing_more() -> None:
    acts = Acts()
    throttle = Throttle(acts, 0)
    throttle.ask()
    throttle.close()
    throttle.ask()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not acts.times
