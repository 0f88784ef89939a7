"""SHA-256 of whole models, in the background: it tells apart what the cheap identity (header and size) can't."""

import hashlib
import time
from collections.abc import Iterable
from pathlib import Path

import structlog
from django.db import transaction
from django.db.models import F, Q

from registry import locks
from registry.discovery.files import modified_ns
from registry.discovery.placement import next_number
from registry.models import Version
from registry.settling import version_change, version_replaced, version_show

log = structlog.get_logger(module="model_registry")

_CHUNK_BYTES = 1 << 20


def versions_hash(*, settled_seconds: float = 10.0, budget_seconds: float = 30.0) -> int:
    """Compute what is missing, and check what was modified since it was computed.

    A file that was merely touched stays the version that it is; other weights under an equal header are a new one.

    Args:
        settled_seconds: files modified since are left for the next time: they may still be written to, as those are
            whose size was reserved first.
        budget_seconds: no further file is begun after that time; the next call goes on.

    Returns:
        How many versions were hashed.
    """
    started = time.monotonic()
    hashed = 0
    with locks.lock_tried(locks.HASH) as mine:
        if not mine:
            return 0
        for version in _due():
            if time.monotonic() - started > budget_seconds:
                break
            if time.time() - version.modified_ns / 1e9 < settled_seconds:
                continue
            digest = _sha256(version)
            if digest is not None:
                _settle(version.pk, version.modified_ns, digest)
                hashed += 1
    return hashed


def _due() -> list[Version]:
    checked = Q(hashed_modified_ns=F("modified_ns")) & ~Q(sha256="")
    here = Version.objects.filter(file_state=Version.FileState.PRESENT).exclude(source=Version.Source.REMOTE)
    return list(here.exclude(checked).order_by("size_bytes"))


def _sha256(version: Version) -> str | None:
    """Of all its files, one after the other; None when they are not those that the scan saw."""
    files = [Path(file) for file in version.files]
    digest = hashlib.sha256()
    try:
        if not _is_as_seen(version, files):
            return None
        for file in files:
            with file.open("rb", buffering=0) as content:
                while chunk := content.read(_CHUNK_BYTES):
                    digest.update(chunk)
        return digest.hexdigest() if _is_as_seen(version, files) else None
    except OSError as fault:
        log.warning(f"Model file can't be read: {fault}", version=version.pk)
        return None


def _is_as_seen(version: Version, files: Iterable[Path]) -> bool:
    found = [file.stat() for file in files]
    return (
        sum(one.st_size for one in found) == version.size_bytes
        and max(modified_ns(one) for one in found) == version.modified_ns
    )


def _settle(pk: int, seen_ns: int, digest: str) -> None:
    with locks.locked(locks.SCAN), transaction.atomic():
        version = Version.objects.select_related("model").filter(pk=pk, modified_ns=seen_ns).first()
        if version is None or version.file_state != Version.FileState.PRESENT:
            return  # a scan came in between
        if version.sha256 in ("", digest):
            version_change(version, sha256=digest, hashed_modified_ns=seen_ns)
            return
        successor = _successor(version, digest)
        version_show(successor, path=version.path, files=version.files, modified_ns=seen_ns)
        version_change(successor, sha256=digest, hashed_modified_ns=seen_ns)
        version_replaced(version, by=successor)
    log.info(f"New version discovered: {successor}", version=str(successor))


def _successor(version: Version, digest: str) -> Version:
    """The version with that content: one that was here before, or a new one."""
    siblings = list(version.model.versions.exclude(pk=version.pk))
    before = [one for one in siblings if one.sha256 == digest and one.header_digest == version.header_digest]
    if before and before[0].file_state != Version.FileState.PRESENT:
        return before[0]
    numbers = [(one.major, one.minor, one.patch) for one in (*siblings, version)]
    major, minor, patch = next_number(numbers, (version.major, version.minor, version.patch))
    return Version.objects.create(
        model=version.model,
        major=major,
        minor=minor,
        patch=patch,
        source=version.source,
        path=version.path,
        files=version.files,
        size_bytes=version.size_bytes,
        header_digest=version.header_digest,
        architecture=version.architecture,
        parameter_count=version.parameter_count,
        quantization=version.quantization,
        context_length=version.context_length,
        capabilities=version.capabilities,
    )
