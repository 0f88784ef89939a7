"""What the ledger has to do with SQL, in a thread of its own: leases, what is given back, what is told, the dead.

The event loop never waits here: it hands over what is wanted and gets each answer as a call in its own turn.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import psycopg
import structlog
from django.db import DatabaseError, InterfaceError, connection

from inference.gateway.standings import Reached
from quotas import treasury
from quotas.journal import Journal, reclaim_left
from quotas.ledger import Ask, Balance
from quotas.modes import log_level
from quotas.treasury import Holding, Leased, Reading
from registry.errors import first_line

log = structlog.get_logger(module="quotas")

RECLAIM_SECONDS = 2.0
"""The dead are looked for so often."""

_STOP_SECONDS = 3.0


class Answered(Protocol):
    """Who hears what SQL says, in the loop's turns."""

    def leased(self, ask: Ask, leased: Leased | None) -> None:
        """None: it can't be asked."""

    def told(self, taken: Mapping[int, int]) -> None:
        """By lease, what is taken of its window by all."""

    def read(self, readings: Sequence[Reading]) -> None:
        """How all windows of models' limits stand."""


@dataclass(frozen=True, slots=True)
class Upkeep:
    """How the ledger stands, as SQL should know it."""

    told: Mapping[int, Holding]
    """By lease."""
    closed: Sequence[int]
    """Leases that nothing will change any more."""
    reading: bool = False
    """The windows of models' limits are to be read."""


class LeaseThread:
    """Runs from :meth:`start` to :meth:`stop`; both, and all other methods, are called by the event loop."""

    def __init__(self, directory: Path) -> None:
        """``directory``: of the journals of all gateways on this node."""
        self._directory = directory
        self._journal = Journal(directory)
        self._tasks: queue.SimpleQueue[Ask | Upkeep | Reached | None] = queue.SimpleQueue()
        self._untold: dict[int, Holding] = {}
        self._unclosed: list[int] = []
        self._all_told = False
        self._reclaimed_at = float("-inf")
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._answered: Answered

    def start(self, answered: Answered) -> None:
        self._loop = asyncio.get_running_loop()
        self._answered = answered
        self._thread.start()

    def ask(self, asks: Sequence[Ask]) -> None:
        for ask in asks:
            self._tasks.put(ask)

    def opened(self, lease: int) -> None:
        """It is ours, and what is charged to it is kept account of from now on. Raises JournalFull."""
        self._journal.open(lease)

    def charge(self, balances: Iterable[Balance]) -> None:
        """So much of them is spent and promised."""
        self._journal.charge(balances)

    def reached(self, reached: Reached) -> None:
        """A limit's level, which one gateway of all says in the log."""
        self._tasks.put(reached)

    def keep_up(self, upkeep: Upkeep) -> None:
        self._tasks.put(upkeep)

    async def stop(self) -> None:
        """Write what is left to be written. A server that hangs is not waited for: the journal tells the next one."""
        self._tasks.put(None)
        await asyncio.to_thread(self._thread.join, _STOP_SECONDS)
        if self._all_told:
            self._journal.close()

    # From here on: in the thread.

    def _run(self) -> None:
        while (task := self._next()) is not None:
            if isinstance(task, Ask):
                self._lease(task)
            elif isinstance(task, Reached):
                self._guarded(partial(self._claim, task))
            else:
                self._untold.update(task.told)
                self._unclosed += task.closed
                if self._guarded(self._tell) and task.reading:
                    self._guarded(self._read)
        self._all_told = self._guarded(self._tell)
        connection.close()

    def _next(self) -> Ask | Upkeep | Reached | None:
        while True:
            if time.monotonic() - self._reclaimed_at >= RECLAIM_SECONDS:
                self._reclaimed_at = time.monotonic()
                self._guarded(self._reclaim)
            with contextlib.suppress(queue.Empty):
                return self._tasks.get(timeout=RECLAIM_SECONDS)

    def _lease(self, ask: Ask) -> None:
        """After all that was to be told before: what is told of a lease is what was granted until then."""
        leased: list[Leased] = []

        def lease() -> None:
            self._tell()
            leased.append(treasury.lease(gateway=self._journal.gateway, ask=ask))

        self._guarded(lease)
        self._call(self._answered.leased, ask, leased[0] if leased else None)

    def _tell(self) -> None:
        if self._untold:
            taken = treasury.tell(self._untold)
            self._untold.clear()
            self._call(self._answered.told, taken)
        if self._unclosed:
            treasury.close(self._unclosed)
            self._call(self._forget, tuple(self._unclosed))
            self._unclosed.clear()

    def _read(self) -> None:
        self._call(self._answered.read, treasury.readings(time.time()))

    def _claim(self, reached: Reached) -> None:
        account = reached.account
        if treasury.level_claim(account=account.key, starts_at=reached.window.starts_at, level=reached.level):
            log.log(
                log_level(reached.level),
                "Soft limit reached" if reached.percent < 100 else "Hard limit reached",
                model_id=reached.model,
                limit=account.name,
                percent=round(reached.percent, 1),
                of=account.limit,
                reached=reached.level.name.lower(),
            )

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        """In the loop's turn."""
        with contextlib.suppress(RuntimeError):  # it has ended before us
            self._loop.call_soon_threadsafe(function, *arguments)

    def _forget(self, leases: Sequence[int]) -> None:
        """By the loop, as all changes of the journal are."""
        for lease in leases:
            self._journal.forget(lease)

    def _reclaim(self) -> None:
        reclaim_left(self._directory, self._reclaim_one)

    def _reclaim_one(self, gateway: str, charges: list[tuple[int, int]]) -> None:
        amount = treasury.reclaim(gateway=gateway, charges=charges)
        log.warning("Took back what a dead gateway had leased", gateway=gateway, amount=amount)

    def _guarded(self, act: Callable[[], None]) -> bool:
        """False: SQL or the disk fails."""
        try:
            act()
            return True
        except (DatabaseError, InterfaceError, psycopg.Error, OSError) as fault:
            log.warning("The ledger can't be written", reason=first_line(fault))
        except Exception:  # a fault of ours: requests must get an answer, and the next task its turn
            log.exception("The ledger's thread met an error")
        connection.close()
        return False
