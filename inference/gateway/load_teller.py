"""How a load goes, as comments of an event stream, for clients that ask for it with ``X-Load-Progress: true``.

    : loading position=0 stage=reading_weights progress=0.42 eta=3.1s

A comment commits the answer to be 200: what fails after it comes as an error event, as it does in mid-stream. Until the
first token, another replica or another model may still answer.
"""

import math
import time
from collections.abc import Callable

from inference.eta import remaining_seconds
from inference.gateway.asgi import EVENT_STREAM, HeaderList
from inference.gateway.call import Call
from inference.protocol import LoadStage, ReplicaState, ReplicaView
from registry.errors import InvalidRequest

HEADER = b"x-load-progress"
EVERY_SECONDS = 1.0
"""One comment at most, beside one for each change of stage."""

_WORDS = {b"true": True, b"1": True, b"false": False, b"0": False}


class LoadTeller:
    """Of one stream."""

    __slots__ = ("_call", "_clock", "_headers", "_next_at", "_told")

    def __init__(self, call: Call, headers: HeaderList, clock: Callable[[], float] = time.monotonic) -> None:
        """``headers``: of the answer, as far as they are known before anybody has answered."""
        self._call = call
        self._headers = headers
        self._clock = clock
        self._next_at = -math.inf
        self._told: tuple[int, LoadStage] | None = None
        """Whose load, and its stage."""

    async def tell(self, replica: ReplicaView | None) -> None:
        """A view of what is waited for. It is told if it is due; of what is unknown yet there is nothing to tell."""
        if replica is None or replica.load is None:
            return
        now, told = self._clock(), (replica.version_pk, replica.load.stage)
        if told == self._told and now < self._next_at:
            return
        if not self._call.started:
            self._call.events_open = True
            await self._call.start(200, [*self._headers, *EVENT_STREAM])
        self._told, self._next_at = told, now + EVERY_SECONDS
        await self._call.body(comment(replica, time.time()), more=True)


def wants_progress(call: Call) -> bool:
    """
    Raises:
        InvalidRequest: the header says neither true nor false.
    """
    raw = call.headers.get(HEADER)
    if raw is None:
        return False
    wanted = _WORDS.get(raw.strip().lower())
    if wanted is None:
        raise InvalidRequest("The header 'X-Load-Progress' must be 'true' or 'false'.", param="X-Load-Progress")
    return wanted


def comment(replica: ReplicaView, now: float) -> bytes:
    """``now``: seconds since the epoch. The replica is loaded, or waits for that."""
    assert replica.load is not None
    return b": loading position=%d stage=%b progress=%.2f eta=%.1fs\n\n" % (
        replica.place,
        replica.load.stage.encode(),
        replica.progress,
        remaining_seconds(replica.load, replica.progress, now),
    )


def eta_seconds(replica: ReplicaView, now: float) -> float | None:
    """Until it is ready, about; None: it is neither loaded nor waits for that."""
    if replica.state is ReplicaState.READY or replica.load is None:
        return None
    return remaining_seconds(replica.load, replica.progress, now)


def retry_after(replica: ReplicaView | None, now: float, otherwise: int, most: int = 600) -> int:
    """Whole seconds after which asking again may help."""
    eta = None if replica is None else eta_seconds(replica, now)
    return otherwise if eta is None else min(most, max(1, math.ceil(eta)))
