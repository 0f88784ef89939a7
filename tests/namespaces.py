"""A network of its own for another node: a Linux network namespace, joined to ours by a cable (veth)."""

import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest

OURS, THEIRS = "198.18.77.1", "198.18.77.2"
"""Of the network that RFC 2544 sets apart for tests."""


class Namespace:
    def __init__(self, name: str) -> None:
        self._name = name
        self._cable = f"v{name[-8:]}"

    @property
    def prefix(self) -> Sequence[str]:
        """Of a command that is to run in there."""
        return ("ip", "netns", "exec", self._name)

    def pids(self) -> list[int]:
        """Of all processes in there."""
        return [int(pid) for pid in _ip("netns", "pids", self._name).split()]

    def kill_all(self) -> None:
        """As when the machine loses its power, but for its disk."""
        while pids := self.pids():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def cut(self) -> None:
        """Pull the cable: nothing arrives any more, and nobody is told."""
        _ip("link", "set", self._cable, "down")

    def mend(self) -> None:
        """Put it back."""
        _ip("link", "set", self._cable, "up")

    def make(self) -> None:
        _ip("netns", "add", self._name)
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self._name)
        _ip("addr", "add", f"{OURS}/30", "dev", self._cable)
        _ip("link", "set", self._cable, "up")
        for command in (("addr", "add", f"{THEIRS}/30", "dev", "eth0"), ("link", "set", "eth0", "up")):
            _ip("-n", self._name, *command)
        _ip("-n", self._name, "link", "set", "lo", "up")

    def remove(self) -> None:
        self.kill_all()
        _ip("netns", "delete", self._name)


@contextmanager
def namespace() -> Iterator[Namespace]:
    """Gone at the end, with all that runs in it."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        if os.environ.get("CI"):
            pytest.fail("network namespaces need root and iproute2")
        pytest.skip("network namespaces need root and iproute2")
    made = Namespace(f"nopenai-{uuid.uuid4().hex[:8]}")
    made.make()
    try:
        yield made
    finally:
        made.remove()


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout
