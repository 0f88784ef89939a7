"""The directories an installation writes to: private, and whose they are."""

import os
from pathlib import Path

from nopenai_site.up.privileges import Account


class DirectoryFault(Exception):
    """A directory can't be used. ``str()`` is meant for the operator."""


def make_private(path: Path, owner: Account | None = None) -> Path:
    """``path`` as a directory that only its owner (by default we) can look into, made where missing.

    A volume that belongs to root and is lent to our group, as Kubernetes does it, is taken as it is.

    Raises:
        DirectoryFault: it can't be made or written, others may look into it, or it is somebody else's.
    """
    trusted = {os.geteuid(), 0, *([owner.uid] if owner else [])}
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        # In a place like /tmp somebody else may have been there before us, with a directory or a link of theirs.
        if path.is_symlink() or path.lstat().st_uid not in trusted:
            raise DirectoryFault(f"{path} belongs to {path.owner()}: run as that user, or use another directory")
        if owner is not None:
            os.chown(path, owner.uid, owner.gid)
        if os.geteuid() in (0, path.stat().st_uid):
            path.chmod(0o700)
    except OSError as fault:
        raise DirectoryFault(f"{path} can't be made or used: {fault.strerror}") from fault
    except KeyError as fault:
        raise DirectoryFault(f"{path} belongs to a user without a name, {fault}: use another directory") from fault
    if path.stat().st_mode & 0o007 or not os.access(path, os.W_OK | os.X_OK):
        raise DirectoryFault(f"{path} belongs to root and is not writable by us alone: use another directory")
    return path
