"""One installation a data directory.

Two locks, both held through inherited descriptors, so that the kernel lets go of them whatever way a process ends:
``up.lock`` by the parent alone (somebody else has it: the installation is running), ``children.lock`` by every child
(it is still held: an earlier run was killed and its children are on their way out).
"""

import fcntl
import os
import time
from collections.abc import Iterable
from pathlib import Path


class AlreadyRunning(Exception):
    """Another parent has the data directory. ``pid`` is what it wrote down; None if it had not yet."""

    def __init__(self, pid: int | None) -> None:
        super().__init__(pid)
        self.pid = pid


class LeftoversRemain(Exception):
    """Children of an earlier run did not end in time."""

    def __init__(self, pids: list[int]) -> None:
        super().__init__(pids)
        self.pids = pids


def lock_installation(data_dir: Path) -> int:
    """Take ``up.lock``; the descriptor to keep.

    Raises:
        AlreadyRunning: somebody has it.
    """
    descriptor = os.open(data_dir / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        written = os.read(descriptor, 32).strip()
        os.close(descriptor)
        raise AlreadyRunning(int(written) if written.isdigit() else None) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def running_pid(data_dir: Path) -> int | None:
    """The parent that has ``data_dir``; None: nobody. It does not try the lock, so as not to be in anyone's way."""
    try:
        pid = int((data_dir / "up.lock").read_text())
        holds = _has_open(Path(f"/proc/{pid}"), data_dir / "up.lock")
    except (OSError, ValueError):
        return None
    return pid if holds else None


def lock_children(data_dir: Path, *, patience_seconds: float) -> int:
    """Take ``children.lock`` as soon as the last child of an earlier run is gone; the descriptor to hand to children.

    Raises:
        LeftoversRemain: after ``patience_seconds``.
    """
    path = data_dir / "children.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise LeftoversRemain(list(holders(path))) from None
            time.sleep(0.02)


def holders(path: Path) -> Iterable[int]:
    """The processes, but for our own, that have ``path`` open, as far as we may see."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid() and _has_open(process, path):
            yield int(process.name)


def _has_open(process: Path, path: Path) -> bool:
    try:
        return any(descriptor.readlink() == path for descriptor in (process / "fd").iterdir())
    except OSError:
        return False  # ended meanwhile, or somebody else's
