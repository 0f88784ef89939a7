"""Which model each found content is, in the light of what is known. Pure.

A file keeps the model it is known as, wherever its name would put it today: ids don't move between files because a
neighbour came or went, nor because an operator registered the file under another id.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from registry.discovery.layout import MAX_ID_CHARACTERS, Found, Number

RESERVED = {"auto": "names the default route"}
"""Ids that no model can have, and why."""

FIRST: Number = (1, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A version that may own a file."""

    pk: int
    model: str
    number: Number
    first_file: str
    has_content: bool
    """False for what never was complete: it may turn out to be another model than its name suggested."""
    starter: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    found: Found
    model: str
    known: Known | None = None
    """The version that the file was known as."""
    alias: str | None = None
    """Another name for the model, ``<Name>:<quantization>`` of the one that ``<Name>`` means."""
    conflict: str | None = None
    """Why the id that it claims is not its own; ``model`` is then a name to list the file by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placements:
    placed: tuple[Placement, ...]
    abandoned: tuple[Known, ...]
    """Versions without content whose file turned out to be something else."""
    gone: tuple[Known, ...]
    """Versions whose file was not found."""
    starter: Found | None = None
    """The built-in model, if it was placed."""


def place(found: Sequence[Found], known: Iterable[Known], *, starter: Found | None = None) -> Placements:
    """Give each found content a model; one slot (id and version folder) goes to one content.

    1. Who is known keeps what it has.
    2. Newcomers take, in order and the sound before the broken, the first free of the ids that they claim.
    3. Who finds none is in conflict with the one that has it.
    4. The starter comes last, and only if its id is free.
    """
    by_file = {version.first_file: version for version in known}
    slots = _Slots()
    settled: list[tuple[Found, Known]] = []
    newcomers: list[Found] = []
    abandoned: list[Known] = []
    for one in found:
        version = by_file.get(one.files[0])
        if version is None or version.starter:
            newcomers.append(one)
        elif _misnamed(version, one):
            abandoned.append(version)
            newcomers.append(one)
        else:  # 1
            slots.hold(version.model, one.number, one)
            slots.hold(version.model, version.number, one)
            settled.append((one, version))
    placed = [
        Placement(found=one, model=version.model, known=version, alias=slots.alias(version.model, one))
        for one, version in settled
    ]
    newcomers.sort(key=lambda newcomer: newcomer.fault is not None)
    placed.extend(_place_newcomer(one, slots) for one in newcomers)  # 2, 3
    if starter is not None and slots.holder(starter.id, starter) is not None:
        starter = None
    if starter is not None:  # 4
        placed.append(Placement(found=starter, model=starter.id, known=by_file.get(starter.files[0])))
    seen = {placement.found.files[0] for placement in placed}
    gone = tuple(version for file, version in by_file.items() if file not in seen)
    return Placements(placed=tuple(placed), abandoned=tuple(abandoned), gone=gone, starter=starter)


def next_number(taken: Iterable[Number], after: Number) -> Number:
    """The next free patch version."""
    numbers = set(taken)
    major, minor, patch = after
    while (major, minor, patch) in numbers:
        patch += 1
    return major, minor, patch


def _misnamed(version: Known, found: Found) -> bool:
    return not version.has_content and found.fault is None and version.model not in (found.id, found.qualified_id)


def _place_newcomer(found: Found, slots: "_Slots") -> Placement:
    for claimed in (found.id, found.qualified_id):
        if claimed is not None and slots.holder(claimed, found) is None:
            slots.take(claimed, found)
            return Placement(found=found, model=claimed, alias=slots.alias(claimed, found))
    claimed = found.qualified_id or found.id
    shown = claimed if found.number is None else f"{claimed}@{'.'.join(map(str, found.number))}"
    mark = hashlib.sha256(found.files[0].encode()).hexdigest()[:8]
    return Placement(
        found=found,
        model=f"{claimed[: MAX_ID_CHARACTERS - 9]}~{mark}",
        conflict=f"'{shown}' {slots.holder(claimed, found)}: rename this file or its folder",
    )


class _Slots:
    """Who holds which id, and which version of it."""

    def __init__(self) -> None:
        self._holders: dict[tuple[str, Number | None], str] = {}
        self._ids: set[str] = set()

    def holder(self, id: str, found: Found) -> str | None:
        """Words for an operator; None when the id is free for ``found``."""
        return RESERVED.get(id) or self._holders.get((id, found.number))

    def take(self, id: str, found: Found) -> None:
        """Without a folder that says otherwise, the first version of a model is 1.0.0."""
        self.hold(id, found.number, found)
        self.hold(id, found.number or FIRST, found)

    def hold(self, id: str, number: Number | None, found: Found) -> None:
        self._holders.setdefault((id, number), f"belongs to {found.files[0]}")
        self._ids.add(id)

    def alias(self, id: str, found: Found) -> str | None:
        """Also hold the qualified id for the content that the bare one means, if nobody has it.

        Not for a version folder: what the bare id means is another question there.
        """
        alias = found.qualified_id
        if alias is None or id != found.id or found.number is not None or alias in self._ids:
            return None
        self.take(alias, found)
        return alias
