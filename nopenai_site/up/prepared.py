"""Whether the embedded database is known to be migrated, so that most starts need not ask it.

The mark lies inside the cluster: whoever removes or replaces the cluster removes the mark with it. A database of the
operator's own can be replaced behind its URL, so there we always ask.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from nopenai_site.environment import PROJECT_ROOT

_MARK = "nopenai_prepared"


def fingerprint(files: Iterable[Path]) -> str:
    """Changes when a file is added, removed, renamed or edited."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def sources() -> list[Path]:
    """Everything that decides what ``prepare`` would do: migrations, ours and (by the lock) those of packages."""
    return [
        *PROJECT_ROOT.glob("*/migrations/*.py"),
        *PROJECT_ROOT.glob("nopenai_site/settings*.py"),
        PROJECT_ROOT / "nopenai_site" / "management" / "commands" / "prepare.py",
        PROJECT_ROOT / "deploy" / "requirements.lock",
    ]


def is_prepared(cluster: Path, wanted: str) -> bool:
    try:
        return (cluster / _MARK).read_text() == wanted
    except OSError:
        return False


def mark_prepared(cluster: Path, done: str) -> None:
    (cluster / _MARK).write_text(done)
