"""From files to models: shards joined, projectors set aside, ids read off the folders. Pure.

<models dir>/<name>.gguf                    <name>
<models dir>/<Name>/<any>.gguf              <Name>                  (deeper folders: <Publisher>/<Name>)
<models dir>/<Name>/<several>.gguf          <Name>:<quantization> each
<models dir>/<Name>/1.1.0/<any>.gguf        <Name>, version 1.1.0
…-00001-of-00003.gguf                       one model with its fellows
mmproj*.gguf                                the projector of another model: no model
"""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from registry import gguf

Number = tuple[int, int, int]

MAX_ID_CHARACTERS = 200

_SEMVER = re.compile(r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})", re.ASCII)
_SHARD = re.compile(r"(?P<stem>.+)-(?P<no>\d{5})-of-(?P<count>\d{5})\.gguf", re.ASCII | re.IGNORECASE)
_MAX_SHARDS = 1000
_NOT_MODELS = {"adapter": "a LoRA adapter", "imatrix": "an importance matrix", "vocab": "a vocabulary"}


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a file can't be used."""

    reason: str
    may_pass: bool
    """True for what is still being copied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedFile:
    """A ``*.gguf`` below a models directory, and what its header says: exactly one of ``header`` and ``fault``."""

    root: str
    folders: tuple[str, ...]
    """Between ``root`` and the file."""
    name: str
    size_bytes: int
    modified_ns: int
    header: gguf.GgufHeader | None = None
    fault: Fault | None = None

    @property
    def folder(self) -> str:
        return str(PurePath(self.root, *self.folders))

    @property
    def path(self) -> str:
        return str(PurePath(self.root, *self.folders, self.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What makes a version: it can't change."""

    header_digest: str
    size_bytes: int
    architecture: str
    parameter_count: int
    quantization: str
    context_length: int | None
    capabilities: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A model's files: exactly one of ``content`` and ``fault``."""

    path: str
    """As shown: the folder, where it holds this model alone; else the (first) file."""
    files: tuple[str, ...]
    """All of its shards, also those that are not there. The first is what a version is recognised by."""
    size_bytes: int
    modified_ns: int
    content: Content | None
    fault: Fault | None
    id: str
    """Claimed, by its folder or its name."""
    qualified_id: str | None = None
    """``<id>:<quantization>``, where several models share the folder."""
    number: Number | None = None
    """From a folder named by a semantic version."""
    display_name: str = ""


def find(files: Iterable[ListedFile]) -> list[Found]:
    """The models that ``files`` are, in the order of the files."""
    by_folder: dict[str, list[_Group]] = defaultdict(list)
    for group in _groups(files):
        by_folder[group.first.folder].append(group)
    return [_found(group, alone=len(groups) == 1) for groups in by_folder.values() for group in groups]


def parse_number(text: str) -> Number | None:
    """A semantic version ``major.minor.patch``; None for anything else."""
    match = _SEMVER.fullmatch(text)
    return None if match is None else (int(match[1]), int(match[2]), int(match[3]))


def identifier(parts: Sequence[str]) -> str:
    """A model id made of names of folders and files: composed Unicode, with ``-`` for what an id can't contain."""
    raw = unicodedata.normalize("NFC", "/".join(parts))
    joined = "".join(c if c.isprintable() and not c.isspace() and c != "@" else "-" for c in raw).lstrip("/:") or "-"
    if len(joined) <= MAX_ID_CHARACTERS:
        return joined
    return f"{joined[: MAX_ID_CHARACTERS - 9]}~{_short_hash(raw)}"


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class _Group:
    """A file, or the shards of one model that are there."""

    stem: str
    count: int
    files: tuple[ListedFile, ...]

    @property
    def first(self) -> ListedFile:
        return self.files[0]

    @property
    def expected_names(self) -> list[str]:
        """Of all shards, spelled as the ones that are there."""
        if self.count == 1:
            return [self.first.name]
        there = {_shard_number(file.name): file.name for file in self.files}
        return [there.get(no, f"{self.stem}-{no:05}-of-{self.count:05}.gguf") for no in range(1, self.count + 1)]


def _groups(files: Iterable[ListedFile]) -> list[_Group]:
    groups: dict[tuple[str, str, int], list[ListedFile]] = defaultdict(list)
    for file in files:
        if not _is_projector(file):
            groups[(file.folder, *_shard_set(file.name))].append(file)
    return [
        _Group(stem, count, tuple(sorted(members, key=lambda file: file.name)))
        for (_, stem, count), members in groups.items()
    ]


def _is_projector(file: ListedFile) -> bool:
    return file.name.lower().startswith("mmproj") or (file.header is not None and file.header.is_projector)


def _shard_set(name: str) -> tuple[str, int]:
    """The stem and the number of files of the model that ``name`` is a part of."""
    match = _SHARD.fullmatch(name)
    if match and 1 <= int(match["no"]) <= int(match["count"]) <= _MAX_SHARDS and int(match["count"]) > 1:
        return match["stem"], int(match["count"])
    return name[: -len(".gguf")], 1


def _shard_number(name: str) -> int:
    match = _SHARD.fullmatch(name)
    return int(match["no"]) if match else 1


def _found(group: _Group, *, alone: bool) -> Found:
    content, fault = _content(group)
    folders, number = _version_folder(group.first.folders)
    names = folders or (group.stem,)
    files = tuple(str(PurePath(group.first.folder, name)) for name in group.expected_names)
    base = identifier(names)
    qualifier = _quantization(group) or group.stem
    return Found(
        path=group.first.folder if alone and folders else files[0],
        files=files,
        size_bytes=sum(file.size_bytes for file in group.files),
        modified_ns=max(file.modified_ns for file in group.files),
        content=content,
        fault=fault,
        id=base,
        qualified_id=identifier([f"{base}:{qualifier}"]) if folders and not alone else None,
        number=number,
        display_name="/".join(names)[:MAX_ID_CHARACTERS],
    )


def _version_folder(folders: tuple[str, ...]) -> tuple[tuple[str, ...], Number | None]:
    """The folders that name the model, and the version if the last one is one."""
    number = parse_number(folders[-1]) if len(folders) > 1 else None
    return (folders, None) if number is None else (folders[:-1], number)


def _quantization(group: _Group) -> str:
    return next((file.header.quantization for file in group.files if file.header), "")


def _content(group: _Group) -> tuple[Content | None, Fault | None]:
    """What the group is, or the first fault of it: of a file, of the set of shards, of the whole."""
    headers: list[gguf.GgufHeader] = []
    for file in group.files:
        fault = _file_fault(file, group)
        if fault is not None:
            named = fault if group.count == 1 else Fault(f"{file.name}: {fault.reason}", fault.may_pass)
            return None, named
        if file.header is not None:
            headers.append(file.header)
    if len(group.files) < group.count:
        return None, _shards_missing(group)
    reason = _not_a_model(headers)
    if reason is not None:
        return None, Fault(reason, may_pass=False)
    return _joined(headers, sum(file.size_bytes for file in group.files)), None


def _file_fault(file: ListedFile, group: _Group) -> Fault | None:
    if file.header is None:
        return file.fault or Fault("was not read", may_pass=True)
    reason = gguf.missing(file.header, file.size_bytes)
    if reason is not None:
        return Fault(reason, may_pass=True)
    if file.header.split_count != group.count:
        return Fault(
            f"is a part of {file.header.split_count}, but not named …-0000N-of-{file.header.split_count:05}.gguf"
            if file.header.split_count > 1
            else f"is named as a part of {group.count}, but is a whole model: rename it",
            may_pass=False,
        )
    if group.count > 1 and file.header.split_no != _shard_number(file.name) - 1:
        return Fault(f"is part {file.header.split_no + 1} by its header, but not by its name", may_pass=False)
    return None


def _shards_missing(group: _Group) -> Fault:
    there = {file.name for file in group.files}
    missing = [name for name in group.expected_names if name not in there]
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return Fault(
        f"{len(there)} of {group.count} shards there; missing: {', '.join(missing[:3])}{more}",
        may_pass=True,
    )


def _not_a_model(headers: Sequence[gguf.GgufHeader]) -> str | None:
    first = headers[0]
    if first.kind in _NOT_MODELS:
        return f"holds {_NOT_MODELS[first.kind]}, not a model"
    if sum(header.parameter_count for header in headers) >= 1 << 63:
        return "claims to have more parameters than fit into 63 bits"
    if not any(header.tensor_count for header in headers):
        return "holds no tensors: a vocabulary, not a model"
    return None


def _joined(headers: Sequence[gguf.GgufHeader], size_bytes: int) -> Content:
    first = headers[0]
    digests = "".join(header.digest for header in headers)
    return Content(
        header_digest=first.digest if len(headers) == 1 else hashlib.sha256(digests.encode()).hexdigest(),
        size_bytes=size_bytes,
        architecture=first.architecture,
        parameter_count=sum(header.parameter_count for header in headers),
        quantization=first.quantization or next((header.quantization for header in headers if header.quantization), ""),
        context_length=first.context_length,
        capabilities=gguf.capabilities(first),
    )
