"""The SSD tier's directory: all of its system calls, and who may make them.

One process owns a directory, by an exclusive flock on the directory itself (a local file system's; the kernel lets go
of it whenever and however the process ends). The directory has mode 0700, files have 0600.

What is in it:

- block files, named by :mod:`files`;
- ``writing.tmp``: the one file that is being written. It gets its name when it is complete; a leftover is deleted;
- ``ledger``: what was written on this day;
- anything else is foreign: not read, not counted, not deleted. Symbolic links, whatever their names, are never followed
  and count as foreign; one in the place of a file that we write is replaced, and its target untouched.

Nothing is synced. A kill, even -9, loses what was not yet renamed. A crash of the *machine* may also lose, or tear,
files of the last half minute or so, and as much of the day's count; what is torn fails its authentication. A sync would
make every block wait for the disk, and all it could save is computing that block again.
"""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from inference.engine.cache.files import LARGEST_FILE_BYTES, OVERHEAD_BYTES, DamagedBlock, Format, Label, is_block_file
from inference.engine.cache.pacing import RECORD_BYTES

_TEMPORARY = "writing.tmp"
_LEDGER = "ledger"
LEDGER_BYTES = RECORD_BYTES
"""Kept free within the budget, so that the directory as a whole stays within it."""


@dataclass(frozen=True, slots=True)
class Found:
    label: Label
    size: int
    """Bytes of the file."""
    used_at: float
    """Its modification time, which we keep at its last use: seconds since the epoch."""


class Folder:
    """An open, locked directory. Used by one thread; every method raises OSError where the disk fails."""

    def __init__(self, directory: Path, format: Format) -> None:
        """Raises:
        OSError: it can't be made or opened, or (BlockingIOError) another process has it.
        """
        self._format = format
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._lock(directory)
            if stat.S_IMODE(os.fstat(self._fd).st_mode) != 0o700:
                os.fchmod(self._fd, 0o700)
        except OSError:
            self.close()
            raise

    def scan(self) -> Iterator[Found]:
        """The blocks that are there. Temporaries and blocks of other compatibility keys are deleted on the way."""
        self._remove(_TEMPORARY)
        with os.scandir(self._fd) as entries:
            for entry in entries:
                if not is_block_file(entry.name) or not entry.is_file(follow_symlinks=False):
                    continue
                label = self._format.parse(entry.name)
                found = entry.stat(follow_symlinks=False)
                if label is None or not OVERHEAD_BYTES <= found.st_size <= LARGEST_FILE_BYTES:
                    self._remove(entry.name)
                    continue
                yield Found(label, found.st_size, found.st_mtime)

    def write(self, label: Label, file: memoryview, now: float) -> None:
        """The block's file is there, whole, or (OSError) not at all.

        Raises:
            DamagedBlock: a directory, which is not ours to delete, has its name.
        """
        try:
            self._remove(_TEMPORARY)
            fd = self._open(_TEMPORARY, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                _write_all(fd, file)
                os.utime(fd, (now, now))
            finally:
                os.close(fd)
            try:
                os.rename(_TEMPORARY, self._format.file_name(label), src_dir_fd=self._fd, dst_dir_fd=self._fd)
            except IsADirectoryError:
                raise DamagedBlock("a directory has the name of its file") from None
        except (OSError, DamagedBlock):
            with suppress(OSError):  # what stays is deleted by the next scan; until then nothing is written
                self._remove(_TEMPORARY)
            raise

    def read(self, label: Label, file: memoryview) -> None:
        """Fill ``file``, which has the size that the block's file should have.

        Raises:
            DamagedBlock: the file has another size, or it is none.
        """
        fd = self._open(self._format.file_name(label), os.O_RDONLY | os.O_NONBLOCK)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size != len(file):
                raise DamagedBlock(f"it has {found.st_size} bytes instead of {len(file)}")
            _read_all(fd, file)
        finally:
            os.close(fd)

    def remove(self, label: Label) -> None:
        self._remove(self._format.file_name(label))

    def set_used_at(self, label: Label, used_at: float) -> None:
        with suppress(FileNotFoundError):
            os.utime(self._format.file_name(label), (used_at, used_at), dir_fd=self._fd, follow_symlinks=False)

    def read_ledger(self) -> bytes:
        """Empty if there is none, yet."""
        try:
            fd = self._open(_LEDGER, os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            return b""
        try:
            return os.read(fd, RECORD_BYTES + 1)
        finally:
            os.close(fd)

    def write_ledger(self, record: bytes) -> None:
        """One small write in place: a kill comes before or after it."""
        fd = self._open(_LEDGER, os.O_WRONLY | os.O_CREAT)
        try:
            os.write(fd, record)
            os.ftruncate(fd, len(record))
        finally:
            os.close(fd)

    def close(self) -> None:
        """Give the directory back."""
        os.close(self._fd)

    def _lock(self, directory: Path) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as taken:
            raise BlockingIOError(taken.errno, "another worker keeps its blocks there", str(directory)) from None

    def _open(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, 0o600, dir_fd=self._fd)

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)


def _write_all(fd: int, file: memoryview) -> None:
    while file:
        file = file[os.write(fd, file) :]


def _read_all(fd: int, file: memoryview) -> None:
    while file:
        count = os.readv(fd, [file])
        if not count:
            raise DamagedBlock("it became shorter while it was read")
        file = file[count:]
