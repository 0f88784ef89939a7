"""The directories an installation writes to: private, and whose they are."""

import os
from pathlib import Path

from nopenai_site.up.privileges import Account


class DirectoryFault(Exception):
    """A directory can't be used. ``str()`` is meant for the operator."""


def make_private(path: Path, owner: Account | None = None) -> Path:
    """``path`` as a directory that only its owner (by default we) can look into, made where missing.

    Raises:
        DirectoryFault: it can't be made, or it is somebody else's.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
        # In a place like /tmp somebody else may have been there before us, with a directory or a link of theirs.
        if path.is_symlink() or found.st_uid not in {os.geteuid(), owner.uid if owner else os.geteuid()}:
            raise DirectoryFault(f"{path} belongs to somebody else (uid {found.st_uid}): remove it")
        if owner is not None:
            os.chown(path, owner.uid, owner.gid)
        path.chmod(0o700)
    except OSError as fault:
        raise DirectoryFault(f"{path} can't be made or used: {fault.strerror}") from fault
    return path
