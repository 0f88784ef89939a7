"""What the kernel holds of files in memory."""

import os
import subprocess
from pathlib import Path


def forget(path: Path) -> None:
    """Have the kernel drop a file's pages, as far as nobody maps them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # what was not written yet could not be dropped
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def resident_share(path: Path) -> float:
    """Of a file's bytes: 0–1."""
    told = subprocess.run(
        ["fincore", "--bytes", "--noheadings", "--output", "RES,SIZE", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    resident, size = map(int, told.stdout.split())
    return min(1.0, resident / size)
