"""The directories in which workers keep their SSD tier, and what becomes of those whose worker is gone.

A running worker is the only one to touch its directory. The others are ours to trim: their blocks stay, since a model
that comes back is worth a thousand times what they cost, but they count, and the least recently used ones go first
(workers set a file's modification time when they use it). Blocks are the files called ``*.kv``, all in one level; what
else lies there is foreign, and goes only with its whole directory.

Whatever takes a path here waits for the disk: call it in a thread (but for :func:`create`, which a start waits for).
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, unquote

import msgspec
import structlog

log = structlog.get_logger(module="supervisor")

_LONGEST_NAME = 255
"""Bytes, in every file system that we meet."""
_KEPT_OF_LONG_NAMES = 150
_BLOCK = ".kv"
_DROPPED = "~dropped-"
"""Begins the name of what is being deleted: no version's directory is called so."""


class OnDisk(msgspec.Struct, frozen=True, kw_only=True):
    """What one version keeps on SSD."""

    blocks: int = 0
    bytes: int = 0
    least_recent_use: float | None = None
    """Seconds since the epoch."""


def directory_name(model: str, version: str) -> str:
    """A file name that belongs to this version alone and can't lead out of its directory.

    ASCII letters, digits and ``_.-`` stay, ``@`` divides; all else, slashes too, is percent-encoded, which can be
    undone, so no two versions share a name. One that is too long for a file is cut and gets a digest of the whole after
    ``~``, which the encoding never writes.
    """
    name = f"{_encoded(model)}@{_encoded(version)}"
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_KEPT_OF_LONG_NAMES]}~{hashlib.sha256(name.encode()).hexdigest()}"


def version_of(name: str) -> tuple[str, str]:
    """The model and version whose directory this is, as far as a cut name tells."""
    model, _, version = name.partition("@")
    return unquote(model), unquote(version)


def create(directory: Path) -> None:
    """Make the directory, only for our own user. Raises OSError."""
    directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)


def survey(root: Path) -> dict[str, OnDisk]:
    """What is there, by the directory's name. Deletions that were cut short are finished first."""
    _delete_dropped(root)
    with suppress(OSError), os.scandir(root) as entries:
        return {entry.name: measure(Path(entry.path)) for entry in entries if entry.is_dir(follow_symlinks=False)}
    return {}


def free_bytes(root: Path) -> int:
    """On the disk where the directory is, or will be. Raises OSError."""
    return shutil.disk_usage(next(path for path in (root, *root.parents) if path.exists())).free


def measure(directory: Path) -> OnDisk:
    blocks = list(_blocks(directory))
    return OnDisk(
        blocks=len(blocks),
        bytes=sum(block.st_size for block in blocks),
        least_recent_use=min((block.st_mtime for block in blocks), default=None),
    )


def trim(root: Path, limits: Mapping[str, int], may_touch: Callable[[str], bool]) -> None:
    """Delete the least recently used blocks of each directory until the rest has at most so many bytes.

    ``may_touch`` is asked before each deletion: a worker may have been started meanwhile.
    """
    for name, limit in limits.items():
        blocks = sorted(_blocks(root / name), key=lambda block: block.st_mtime)
        held = sum(block.st_size for block in blocks)
        for block in blocks:
            if held <= limit or not may_touch(name):
                break
            with suppress(OSError):
                os.unlink(block.path)  # noqa: PTH108 - it is no Path
                held -= block.st_size


def drop(root: Path, names: Collection[str], may_touch: Callable[[str], bool]) -> None:
    """Delete whole directories. Renamed first: a worker that is started meanwhile gets a new one."""
    for name in names:
        if may_touch(name):
            with suppress(OSError):
                (root / name).rename(root / f"{_DROPPED}{time.time_ns()}")
                log.info("Cached blocks are deleted: their version is no longer known", directory=name)
    _delete_dropped(root)


def _delete_dropped(root: Path) -> None:
    for dropped in root.glob(f"{_DROPPED}*"):
        shutil.rmtree(dropped, ignore_errors=True)


def _encoded(text: str) -> str:
    # quote() leaves "~" as it is; a lone surrogate, which can't be a model's but would be no reason to fail, passes.
    return quote(text.encode(errors="surrogatepass"), safe="").replace("~", "%7E")


class _Block(msgspec.Struct, frozen=True):
    path: str
    st_size: int
    st_mtime: float


def _blocks(directory: Path) -> Iterator[_Block]:
    """What vanishes while we look is not there."""
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with suppress(OSError):
                if entry.name.endswith(_BLOCK) and entry.is_file(follow_symlinks=False):
                    found = entry.stat(follow_symlinks=False)
                    yield _Block(entry.path, found.st_size, found.st_mtime)
