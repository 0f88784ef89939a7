"""Virtual environments of the peers, one each, so that no peer's dependencies meet ours or another's."""

import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from nopenai_site.bootstrap import COMPILED, LOCKS, package_of

HERE = Path(__file__).resolve().parent
_ENVIRONMENTS = HERE / "environments"
_EXAMPLES_SERVER = "examples-server"


class DoesNotRun(Exception):
    """A peer can't be had on this machine; ``str()`` says why. The others are measured all the same."""


def python_of(peer: str) -> Path:
    """The interpreter of the peer's environment, made on first use (litellm takes a minute).

    Raises:
        DoesNotRun: pip can't install it.
    """
    requirements = HERE / "peers" / f"requirements-{peer}.txt"
    environment = _ENVIRONMENTS / peer
    python = environment / "bin" / "python"
    installed = environment / "installed.txt"
    wanted = requirements.read_text()
    if not installed.exists() or installed.read_text() != wanted:
        print(f"installing {', '.join(wanted.split())} …", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
        _pip(python, ["install", "--requirement", str(requirements)])
        installed.write_text(wanted)
    return python


def examples_server() -> tuple[Path, Path]:
    """An interpreter and llama-cpp-python's ``examples/server/server.py``.

    It is in no wheel, so it comes out of the source distribution, at the version and with the hash of our lock file.
    The package itself is the one that we run, so that both servers compute with the very same build of llama.cpp.

    Raises:
        DoesNotRun: its packages or the source distribution can't be had, or the script is not in there.
    """
    python = python_of(_EXAMPLES_SERVER)
    source = _ENVIRONMENTS / _EXAMPLES_SERVER / "source"
    package = _package("llama_cpp")
    pin = package_of(LOCKS["runtime"].read_text(), COMPILED)
    unpacked = source / "unpacked.txt"
    wanted = f"{pin}{package}\n"
    if not unpacked.exists() or unpacked.read_text() != wanted:
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir()
        _unpack(python, pin, "examples/server/server.py", source)
        (source / "llama_cpp").symlink_to(package)
        unpacked.write_text(wanted)
    return python, source / "server.py"


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    assert found is not None and found.origin is not None, "we run on it ourselves"
    return Path(found.origin).parent


def _unpack(python: Path, pin: str, file: str, into: Path) -> None:
    """One file of the source distribution of a package that is pinned with its hashes."""
    with tempfile.TemporaryDirectory() as directory:
        pinned = Path(directory) / "requirements.txt"
        pinned.write_text(pin)
        options = ["--no-deps", "--no-binary", COMPILED, "--dest", directory, "--requirement", str(pinned)]
        _pip(python, ["download", *options])
        archive = next(Path(directory).glob("*.tar.gz"))
        with tarfile.open(archive) as members:
            member = next((name for name in members.getnames() if name.partition("/")[2] == file), None)
            content = members.extractfile(member) if member else None
            if content is None:
                raise DoesNotRun(f"{archive.name} holds no {file}")
            (into / Path(file).name).write_bytes(content.read())


def _pip(python: Path, arguments: Sequence[str]) -> None:
    command = [str(python), "-m", "pip", arguments[0], "--quiet", *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise DoesNotRun(f"pip can't {arguments[0]} what it needs: {(errors or ['it says nothing'])[-1]}")
