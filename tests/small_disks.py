"""Small file systems, for tests that need a disk to be full, or read-only, in earnest.

The kernel offers no full disk without a mount: a limit on a file's size is another error, ``/dev/full`` is no
directory, and a quota belongs to a mount, too. Mounting is root's in a namespace of its own as well, which most
kernels give to anybody, and what is mounted there is seen from outside through ``/proc/<process>/root``.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

Run = Callable[[str], str]
"""Takes a command to where the mount is; returns what it complained of, or nothing."""


class SmallDisk:
    def __init__(self, path: Path, mount_point: Path, run: Run) -> None:
        self.path = path
        self._mount_point = mount_point
        self._run = run

    def remount(self, option: str) -> None:
        """``ro`` or ``rw``. Of the mount only: in a namespace nobody may change the file system's own options."""
        complaint = self._run(f"mount -o remount,bind,{option} '{self._mount_point}'")
        assert not complaint, complaint


@contextmanager
def small_disk(place: Path, options: str) -> Iterator[SmallDisk]:
    """A tmpfs at ``place``: as root, in a namespace, or as root by a sudo that asks for no password. Skips the test,
    which fails the run where ``CI=true``, if none of these is to be had."""
    mount_point = place.with_name(f"{place.name} (mount point)")
    mount_point.mkdir()
    mount = f"mount -t tmpfs -o mode=1777,{options} tmpfs '{mount_point}'"
    complaints = []
    for shell in (["sh"], ["unshare", "--user", "--map-root-user", "--mount", "sh"], ["sudo", "-n", "sh"]):
        with _shell(shell) as (process, run):
            if complaint := run(mount):
                complaints.append(f"{shell[0]}: {complaint}")
                continue
            place.symlink_to(f"/proc/{process}/root{mount_point}" if shell[0] == "unshare" else mount_point)
            try:
                yield SmallDisk(place, mount_point, run)
            finally:
                run(f"umount -l '{mount_point}'")
            return
    pytest.skip(f"no disk can be made full here, since no tmpfs can be mounted; {'; '.join(complaints)}")


@contextmanager
def _shell(command: Sequence[str]) -> Iterator[tuple[int, Run]]:
    """A shell that runs what it is told until the end; its process and how to tell it."""
    if shutil.which(command[0]) is None:
        yield 0, lambda _: "it is not installed"
        return
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    assert process.stdin is not None and process.stdout is not None
    into, out = process.stdin, process.stdout

    def run(line: str) -> str:
        try:
            print(f"{line} && echo = || echo '= failed'", file=into, flush=True)
        except BrokenPipeError:
            return out.read().strip()
        said: list[str] = []
        for answer in out:
            if answer.startswith("="):
                return "" if answer == "=\n" else " ".join(said) or "it failed"
            said.append(answer.strip())
        return " ".join(said) or "it ended"

    try:
        yield process.pid, run
    finally:
        process.communicate()
