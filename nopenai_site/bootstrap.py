"""Installs what the server (or its tests) need into ``.venv``: what ``make`` calls before anything else.

    python3 nopenai_site/bootstrap.py runtime|tests

Only the standard library, and syntax that an older Python can read, so that it is told what to install instead of
being shown a SyntaxError. When nothing changed since the last success it returns within milliseconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Iterator, Mapping, Sequence, TextIO  # noqa: UP035 - Python 3.8 reads this file too

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCKS = {"runtime": ROOT / "deploy" / "requirements.lock", "tests": ROOT / "tests" / "requirements.lock"}

OLDEST = (3, 11)
# In the order of preference, where `python3` itself is too old.
PYTHONS = ("python3.11", "python3.12", "python3.13", "python3.14")

COMPILED = "llama-cpp-python"
"""The one package without a wheel, which is compiled here, for exactly this CPU."""


class Missing(Exception):
    """The machine lacks something. ``str()`` says what, and what to install."""


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in LOCKS:
        print(f"usage: python3 nopenai_site/bootstrap.py {'|'.join(LOCKS)}", file=sys.stderr)
        return 2
    what = arguments[0]
    try:
        if sys.version_info < OLDEST:
            return subprocess.call([newer_python(), __file__, what])
        if not is_installed(what):
            check_machine()
            with exclusively(LOCKS[what]):
                install(what)
    except Missing as fault:
        print(f"\n{fault}\n", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The next run goes on where this one stopped.", file=sys.stderr)
        return 130
    return 0


# --- What the machine must have ---------------------------------------------------------------------------------------


def newer_python() -> str:
    """The first of :data:`PYTHONS` that runs.

    Raises:
        Missing: none does.
    """
    for name in PYTHONS:
        # A shim of a version manager is on the PATH whether or not there is a Python behind it: try it.
        if shutil.which(name) and _succeeds([name, "-c", "import venv"]):
            return name
    raise Missing(
        f"Python 3.11 or newer is needed; this is {sys.version.split()[0]} and there is none of "
        f"{', '.join(PYTHONS)} on the PATH.\n"
        "  Debian 12, Ubuntu 24.04 or newer:  sudo apt install python3 python3-venv\n"
        "  Fedora:                            sudo dnf install python3.12\n"
        "  anywhere:                          https://docs.astral.sh/uv/ and then: uv python install 3.12"
    )


def check_machine(environment: Mapping[str, str] | None = None, platform: str = sys.platform) -> None:
    """Everything that would otherwise fail only after minutes of downloading and compiling.

    Raises:
        Missing: naming all that is missing, not just the first.
    """
    if not platform.startswith("linux"):
        raise Missing("nOpenAI Server runs on Linux (also in WSL, a container or a virtual machine).")
    variables = os.environ if environment is None else environment
    faults = [*_venv_faults(), *compiler_faults(variables)]
    if faults:
        raise Missing("Before anything is built: this machine lacks\n" + "\n".join(f"  - {fault}" for fault in faults))


def compiler_faults(variables: Mapping[str, str]) -> list[str]:
    """What is missing to compile llama.cpp; nothing where its package is installed already."""
    if _is_compiled():
        return []
    path = variables.get("PATH")
    install = (
        "Install it:  Debian, Ubuntu: sudo apt install build-essential   Fedora: sudo dnf install gcc gcc-c++ make"
    )
    faults = []
    for language, variable, names, source in (
        ("C", "CC", ("cc", "gcc", "clang"), "#include <stdlib.h>\nint main(void) { return 0; }\n"),
        ("C++", "CXX", ("c++", "g++", "clang++"), "#include <thread>\nint main() { return 0; }\n"),
    ):
        chosen = variables.get(variable)
        compiler = next((name for name in ([chosen] if chosen else names) if shutil.which(name, path=path)), None)
        if compiler is None:
            faults.append(f"a {language} compiler ({chosen or ', '.join(names)}), to compile llama.cpp. {install}")
        elif not _compiles(compiler, "c" if language == "C" else "c++", source, variables):
            faults.append(
                f"what the {language} compiler {compiler} needs: it can't compile an empty program. {install}"
            )
    if not shutil.which("make", path=path) and not shutil.which("ninja", path=path):
        faults.append(f"make. {install}")
    return faults


def _venv_faults() -> list[str]:
    # Debian splits both off into a package of its own.
    if VENV.exists() or (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        return []
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return [f"Python's venv module. Install it:  Debian, Ubuntu: sudo apt install python{version}-venv"]


def _compiles(compiler: str, language: str, source: str, variables: Mapping[str, str]) -> bool:
    """Whether the standard library's headers are there too: the compiler alone does not bring them everywhere."""
    with tempfile.TemporaryDirectory() as directory:
        command = [compiler, "-x", language, "-", "-o", str(Path(directory) / "program")]
        return _succeeds(command, source, variables)


def _succeeds(command: Sequence[str], text: str = "", variables: Mapping[str, str] | None = None) -> bool:
    try:
        return subprocess.run(command, input=text.encode(), capture_output=True, env=variables).returncode == 0
    except OSError:
        return False


# --- Installing -------------------------------------------------------------------------------------------------------


def is_installed(what: str) -> bool:
    try:
        return _stamp(what).read_text() == _fingerprint(what)
    except OSError:
        return False


def install(what: str) -> None:
    """Bring ``.venv`` in line with a lock file.

    Raises:
        Missing: pip failed; with the end of what it said.
    """
    if is_installed(what):
        return  # by the one we waited for
    began = time.monotonic()
    if not _works():
        print(f"Making {VENV.relative_to(ROOT)} with Python {sys.version.split()[0]}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
    unfinished = VENV / "unfinished"
    if unfinished.exists():
        remove_broken_packages()
    unfinished.touch()
    lock = LOCKS[what].read_text()
    if not _is_compiled():
        print("Compiling llama.cpp for this machine (once; about 6 minutes on 2 cores, unless pip kept a built copy)")
        _pip(package_of(lock, COMPILED), ["--verbose"], compile_progress)
    count = len(re.findall(r"^[\w.-]+==", lock, re.MULTILINE))
    print(f"Installing {count} packages")
    _pip(lock, [], lambda line, seen: collect_progress(line, seen, count))
    unfinished.unlink()
    _stamp(what).write_text(_fingerprint(what))
    print(f"Installed in {clock(time.monotonic() - began)}\n")


def package_of(lock: str, name: str) -> str:
    """The lines of one package in a lock file: its pin and its hashes."""
    match = re.search(rf"^{re.escape(name)}==.*\n(?:[ \t]+.*\n)*", lock, re.MULTILINE)
    if match is None:
        raise Missing(f"{name} is not in the lock file: run `make lock`")
    return match[0]


def remove_broken_packages() -> None:
    """After an interruption: forget the packages of which files are missing, so that pip installs them again."""
    for record in VENV.glob("lib/python*/site-packages/*.dist-info"):
        if not is_whole(record):
            shutil.rmtree(record)


def is_whole(dist_info: Path) -> bool:
    """Whether all files that a package's RECORD lists are there, with their sizes; pip writes RECORD last."""
    try:
        lines = (dist_info / "RECORD").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    for line in lines:
        name, _, rest = line.rpartition(",")[0].rpartition(",")
        size = line.rpartition(",")[2]
        path = dist_info.parent / name.strip('"')
        # Byte code is made and dropped by others; it has no size in RECORD either.
        if rest and size.isdigit() and (not path.is_file() or path.stat().st_size != int(size)):
            return False
    return True


@contextlib.contextmanager
def exclusively(lock: Path) -> Iterator[None]:
    """One installation at a time in this checkout; the file that says what to install serves as the lock."""
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another installation is running in this checkout; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _pip(requirements: str, options: Sequence[str], progress: Callable[[str, int], str | None]) -> None:
    """Install exactly ``requirements``, hashes checked, showing what ``progress`` makes of pip's lines."""
    file = VENV / "requirements.txt"
    file.write_text(requirements)
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--require-hashes", "--no-deps", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", *options, "-r", str(file)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    shown = Progress(sys.stdout)
    log = VENV / "install.log"
    seen = 0
    try:
        with log.open("wb") as file_of_log:
            for raw in process.stdout:
                file_of_log.write(raw)
                step = progress(raw.decode(errors="replace"), seen)
                seen += step is not None
                shown.show(step)
    finally:
        shown.end()
        if process.poll() is None:
            process.terminate()
        process.wait()
    if process.returncode != 0:
        said = "".join(log.read_text(errors="replace").splitlines(keepends=True)[-30:])
        raise Missing(f"{said}\npip failed; all it said is in {log}. The next run tries again.")


# --- Progress ---------------------------------------------------------------------------------------------------------


def compile_progress(line: str, _seen: int) -> str | None:
    """ninja's ``[12/345]`` or make's ``[ 12%]`` in a line of pip's."""
    match = re.match(r"\s*\[\s*(\d+/\d+|\d+%)\]", line)
    return f"compiled {match[1]}" if match else None


def collect_progress(line: str, seen: int, count: int) -> str | None:
    """pip names each package as it collects it; those that are there are collected too."""
    if re.match(r"Collecting |Requirement already satisfied: ", line):
        return f"collected {min(seen + 1, count)} of {count}"
    return "unpacking" if line.startswith("Installing collected packages") else None


class Progress:
    """One line that is rewritten on a terminal; elsewhere a line now and then."""

    QUIET_SECONDS = 20.0

    def __init__(self, stream: TextIO, now: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._now = now
        self._began = self._last = now()
        self._terminal = stream.isatty()
        self._open = False

    def show(self, step: str | None) -> None:
        if step is None:
            return
        now = self._now()
        text = f"  {step}, {clock(now - self._began)} elapsed"
        if self._terminal:
            self._stream.write(f"\r\x1b[K{text}")
            self._open = True
        elif now - self._last >= self.QUIET_SECONDS:
            self._stream.write(f"{text}\n")
            self._last = now
        self._stream.flush()

    def end(self) -> None:
        if self._open:
            self._stream.write("\n")
            self._open = False


def clock(seconds: float) -> str:
    """``4:05``"""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


# --- State of .venv ---------------------------------------------------------------------------------------------------


def _works() -> bool:
    """Whether there is a virtual environment of a Python that we support and that is still there."""
    code = f"import sys, pip; sys.exit(sys.version_info < {OLDEST})"
    return _succeeds([str(VENV / "bin" / "python"), "-c", code])


def _is_compiled() -> bool:
    pinned = re.search(rf"^{COMPILED}==(\S+)", LOCKS["runtime"].read_text(), re.MULTILINE)
    name = f"{COMPILED.replace('-', '_')}-{pinned[1] if pinned else ''}.dist-info"
    return any(is_whole(path) for path in VENV.glob(f"lib/python*/site-packages/{name}"))


def _stamp(what: str) -> Path:
    return VENV / f"installed-{what}"


def _fingerprint(what: str) -> str:
    """Of the lock file and of the Python that the environment was made with."""
    return hashlib.sha256(LOCKS[what].read_bytes() + (VENV / "pyvenv.cfg").read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
