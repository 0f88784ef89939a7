"""Django's SECRET_KEY: made on the first start of a server, kept in the data directory.

Only what serves makes one. A command that was given another data directory would else leave a key there that opens
nothing, and seal with it what the servers could then not open.
"""

import os
import secrets
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

_NAME = "secret_key"


def secret_key_make(data_dir: Path) -> None:
    """Make the installation's key unless it is there. Processes that start at once agree: the first to link its file
    into place wins."""
    path = data_dir / _NAME
    if path.exists():
        return
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = data_dir / f".{_NAME}.{os.getpid()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(50))
    try:
        os.link(draft, path)
    except FileExistsError:
        pass  # another process was first; its key is ours
    finally:
        draft.unlink()


def secret_key(data_dir: Path) -> str:
    """The installation's key.

    Raises:
        ImproperlyConfigured: there is none, or we may not read it.
    """
    try:
        return (data_dir / _NAME).read_text()
    except OSError as fault:
        raise ImproperlyConfigured(
            f"The data directory {data_dir} has no secret key that can be read ({fault.strerror}). The first start of "
            "the server makes it; if the server runs, give NOPENAI_DATA_DIR as it got it, and run as its user."
        ) from fault
