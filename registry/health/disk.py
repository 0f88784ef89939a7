"""Looks at the files of versions, as a check does. All I/O of it; nothing is written down here."""

import os
from pathlib import Path

from registry.discovery import layout
from registry.discovery.files import HeaderCache, list_path, modified_ns
from registry.models import Version
from registry.settling import is_content_of


def has_changed(version: Version) -> bool:
    """Whether its files are other ones than the last scan saw, by size and time of modification, or can't be opened.
    Cheap: for thousands of them."""
    try:
        found = [Path(file).stat() for file in version.files]
    except OSError:
        return True
    return (
        sum(one.st_size for one in found) != version.size_bytes
        or max((modified_ns(one) for one in found), default=0) != version.modified_ns
    )


def fault_of(version: Version, *, thoroughly: bool) -> str:
    """Why its files can't be served; empty if they can.

    Args:
        thoroughly: read their headers now, and the extents that these tell of, though nothing seems to have changed.
    """
    if version.file_state != Version.FileState.PRESENT:
        return version.health_reason or str(version.get_file_state_display())
    if not version.files:
        return ""
    if not thoroughly:
        return next((_unreadable(file) for file in version.files if not os.access(file, os.R_OK)), "")
    found = layout.find(list_path(Path(version.files[0]), HeaderCache()))
    if not found:
        return f"there is no {version.path} any more"
    if found[0].content is None:
        return found[0].fault.reason if found[0].fault else "its header can't be read"
    if not is_content_of(version, found[0].content):
        return "its header is not the one that was registered"
    return ""


def _unreadable(file: str) -> str:
    return f"{Path(file).name} can't be read"
