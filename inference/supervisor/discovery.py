"""Notices that models come, grow, change and go, and has them scanned.

The file system tells of changes; a scan decides what they mean. Every change leads to a scan that begins after it, and
scans that are asked for while one runs are one. A file that is not complete yet (still being copied, perhaps where no
event reaches us: behind a symbolic link, on a network) is looked at again every second for a while.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog
import watchfiles

from inference.supervisor.sql import DatabaseAway, SqlThread
from registry import services

log = structlog.get_logger(module="discovery")

_QUIET_MS = 100
"""A burst of changes is over when nothing changed for so long …"""
_BURST_MS = 400
"""… or is reported as it is after so long: a copy takes minutes."""
_LOOK_MS = 2000
"""How often we see whether the directories are still the ones that we watch."""
_GAP_SECONDS = 0.7
"""At least this between two scans, so that a copy of minutes costs little."""
_UNFINISHED_SECONDS = 1.0
_PATIENCE_SECONDS = 60.0
"""How long we look after an unfinished file that no event tells of."""
_SCAN_SECONDS = 300.0
_RETRY_SECONDS = 1.0


class Discovery:
    """Watches the models directories of one node from :meth:`run`'s start to its cancellation."""

    def __init__(self, models_dirs: tuple[Path, ...], *, starter_model: bool) -> None:
        self._models_dirs = models_dirs
        self._scan = partial(_scan, models_dirs, starter_model)
        self._sql = SqlThread("sql of discovery")
        self._changed = asyncio.Event()
        self._changed_at = 0.0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        stop = threading.Event()

        def tell() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(self._note_change)

        watch = partial(_watch, self._models_dirs, stop, tell)
        threading.Thread(target=watch, name="watch models", daemon=True).start()
        self._note_change()
        try:
            while True:
                unusable = await self._scan_once()
                await asyncio.sleep(_GAP_SECONDS)
                await self._wait(unusable)
        finally:
            stop.set()
            self._sql.close()

    def _note_change(self) -> None:
        self._changed_at = asyncio.get_running_loop().time()
        self._changed.set()

    async def _scan_once(self) -> dict[str, str]:
        """Scan until it succeeds; returns what can't be used, and why."""
        while True:
            # Before the scan: a change that comes while it runs may be one that it has passed by.
            self._changed.clear()
            try:
                return await self._sql.call(self._scan, seconds=_SCAN_SECONDS)
            except DatabaseAway as fault:
                log.debug("The models can't be scanned yet", reason=str(fault))
            except Exception:
                # Whatever lies in a models directory, those that serve go on serving.
                log.exception("The models can't be scanned")
            await asyncio.sleep(_RETRY_SECONDS)

    async def _wait(self, unusable: dict[str, str]) -> None:
        """Until a scan may find something new."""
        patient_until = self._changed_at + _PATIENCE_SECONDS
        look_again = unusable and asyncio.get_running_loop().time() < patient_until
        with suppress(TimeoutError):
            async with asyncio.timeout(_UNFINISHED_SECONDS if look_again else None):
                await self._changed.wait()


def _scan(models_dirs: tuple[Path, ...], starter_model: bool) -> dict[str, str]:
    _create(models_dirs)
    return services.models_scan(models_dirs=models_dirs, starter_model=starter_model).unusable


def _create(models_dirs: Iterable[Path]) -> None:
    for directory in models_dirs:
        with suppress(OSError):  # read-only, perhaps: then there is nothing to find in it either
            directory.mkdir(parents=True, exist_ok=True)


def _watch(models_dirs: tuple[Path, ...], stop: threading.Event, tell: Callable[[], object]) -> None:
    """Call ``tell`` after every change below the directories. Runs in a thread of its own."""
    poll = False
    while not stop.is_set():
        _create(models_dirs)
        tell()  # what came between two watches was seen by none
        try:
            _watch_these(models_dirs, stop, tell, poll=poll)
        except FileNotFoundError:
            stop.wait(_RETRY_SECONDS)
        except (OSError, RuntimeError) as fault:
            if not poll:
                log.warning(
                    "The models directories can't be watched, so they are polled; fs.inotify.max_user_watches or "
                    "max_user_instances may be too low",
                    reason=str(fault),
                )
            poll = True
            stop.wait(_RETRY_SECONDS)


def _watch_these(
    models_dirs: tuple[Path, ...], stop: threading.Event, tell: Callable[[], object], *, poll: bool
) -> None:
    """Until one of the directories is another one than before: moved away, deleted, mounted over."""
    watched = [_identity(directory) for directory in models_dirs]
    changes = watchfiles.watch(
        *(directory for directory, identity in zip(models_dirs, watched, strict=True) if identity),
        watch_filter=None,
        debounce=_BURST_MS,
        step=_QUIET_MS,
        stop_event=stop,
        rust_timeout=_LOOK_MS,
        yield_on_timeout=True,
        raise_interrupt=False,
        force_polling=poll,
        poll_delay_ms=1000,
        ignore_permission_denied=True,
    )
    for changed in changes:
        if changed:
            tell()
        if [_identity(directory) for directory in models_dirs] != watched:
            return


def _identity(directory: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(directory)  # noqa: PTH116 - the numbers, not the path
    except OSError:
        return None
    return found.st_dev, found.st_ino
