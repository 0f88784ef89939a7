"""Lists the GGUFs below the models directories and reads the headers of those that changed. All I/O of discovery."""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import structlog

from registry import gguf
from registry.discovery.layout import Fault, ListedFile

log = structlog.get_logger(module="discovery")

MAX_DEPTH = 8
"""Folders below a models directory that are looked into."""

_MAX_INT64 = (1 << 63) - 1

_Key = tuple[str, int, int]
_Reading = gguf.GgufHeader | Fault


class HeaderCache:
    """What was read of each file, while its path, size and modification time stay as they were."""

    def __init__(self) -> None:
        self._readings: dict[_Key, _Reading] = {}
        self._asked: set[_Key] = set()
        self.reads = 0
        """Headers read since the start."""

    def read(self, key: _Key, path: Path) -> _Reading:
        """What can't be read is tried again: permissions and disks change without a trace in the file."""
        self._asked.add(key)
        reading = self._readings.get(key)
        if reading is None:
            self.reads += 1
            try:
                reading = self._readings[key] = _read(path)
            except gguf.Unreadable as fault:
                return Fault(str(fault), may_pass=True)
        return reading

    def forget_unasked(self) -> None:
        """Forget the files that nobody asked for since the last time: they are no more."""
        self._readings = {key: reading for key, reading in self._readings.items() if key in self._asked}
        self._asked.clear()


def list_files(models_dirs: Sequence[Path], cache: HeaderCache) -> list[ListedFile]:
    """Every ``*.gguf`` below ``models_dirs``, sorted within each; hidden files and folders are passed over."""
    return [
        _list(root, folders, path, cache)
        for root in dict.fromkeys(models_dirs)
        for folders, path in _walk(root, (), ())
    ]


def list_path(path: Path, cache: HeaderCache) -> list[ListedFile]:
    """A file with the shards that belong to it, or the GGUFs right inside a folder; empty if there is nothing."""
    try:
        is_folder = path.is_dir()
        folder = path if is_folder else path.parent
        names = sorted(entry.name for entry in os.scandir(folder) if not _is_folder(entry))
    except OSError:
        return []
    wanted = [name for name in names if _is_model_name(name)] if is_folder else _with_shards(path.name, names)
    return [_list(folder, (), folder / name, cache) for name in wanted]


def _with_shards(name: str, names: Iterable[str]) -> list[str]:
    stem = name.rpartition("-of-")[0][: -len("-00001")]
    tail = name.rpartition("-of-")[2]
    if not stem:
        return [other for other in names if other == name]
    return [other for other in names if other.startswith(f"{stem}-") and other.endswith(f"-of-{tail}")]


def _walk(
    folder: Path, folders: tuple[str, ...], above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[tuple[str, ...], Path]]:
    """Files first, then folders, by name. Links are followed, but not in circles."""
    try:
        here = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except OSError as fault:
        log.warning(f"Models folder can't be read: {fault.strerror}", path=_shown(str(folder)))
        return
    identity = (here.st_dev, here.st_ino)
    if identity in above:
        return
    visible = [(entry.name, _is_folder(entry)) for entry in entries if not entry.name.startswith(".")]
    for name, is_folder in visible:
        if not is_folder and _is_model_name(name):
            yield folders, folder / name
    for name, is_folder in visible:
        if is_folder and len(folders) < MAX_DEPTH:
            yield from _walk(folder / name, (*folders, name), (*above, identity))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _is_model_name(name: str) -> bool:
    return name.lower().endswith(".gguf")


def _list(root: Path, folders: tuple[str, ...], path: Path, cache: HeaderCache) -> ListedFile:
    size_bytes, modified_ns, fault = _look(path)
    reading = fault or cache.read((str(path), size_bytes, modified_ns), path)
    return ListedFile(
        root=_shown(str(root)),
        folders=tuple(_shown(folder) for folder in folders),
        name=_shown(path.name),
        size_bytes=size_bytes,
        modified_ns=modified_ns,
        header=reading if isinstance(reading, gguf.GgufHeader) else None,
        fault=reading if isinstance(reading, Fault) else None,
    )


def _look(path: Path) -> tuple[int, int, Fault | None]:
    """Size, modification time, and why it should not be opened (a FIFO would block the scan for ever)."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0, 0, Fault("is a link to a file that does not exist", may_pass=True)
    except OSError as fault:
        return 0, 0, Fault(f"can't be read: {fault.strerror}", may_pass=True)
    if not stat.S_ISREG(found.st_mode):
        return 0, modified_ns(found), Fault("is not a regular file", may_pass=False)
    if _shown(str(path)) != str(path):
        return found.st_size, modified_ns(found), Fault("its name is no valid UTF-8: rename it", may_pass=False)
    return found.st_size, modified_ns(found), None


def modified_ns(found: os.stat_result) -> int:
    """As the tables can hold it: a file may claim to be of a year after 2262."""
    return max(-_MAX_INT64, min(found.st_mtime_ns, _MAX_INT64))


def _read(path: Path) -> _Reading:
    try:
        return gguf.read_header(path)
    except gguf.Incomplete as fault:
        return Fault(str(fault), may_pass=True)
    except gguf.Invalid as fault:
        return Fault(str(fault), may_pass=False)


def _shown(name: str) -> str:
    """Names of files are bytes; those that are no UTF-8 can neither be stored nor sent as they are."""
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")
