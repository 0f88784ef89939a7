"""The directories of the SSD tier."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.supervisor import cache_disk
from inference.supervisor.cache_disk import OnDisk, directory_name, version_of

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=300) | st.sampled_from(
    ["..", ".", "", "/", "../../etc/passwd", "a/b", "a%2Fb", "a@1", "~dropped-1", "\0", "a~b"]
)


def anybody(_name: str) -> bool:
    return True


def write(root: Path, directory: str, *blocks: tuple[str, int, float]) -> None:
    """Files with a size and a time of last use."""
    (root / directory).mkdir(parents=True, exist_ok=True)
    for name, size, used_at in blocks:
        path = root / directory / name
        path.write_bytes(b"x" * size)
        os.utime(path, (used_at, used_at))


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("model", "version", "name"),
    [
        ("SmolLM2-135M-Instruct", "1.0.0", "SmolLM2-135M-Instruct@1.0.0"),
        ("org/Qwen:Q4_K_M", "1.2.3", "org%2FQwen%3AQ4_K_M@1.2.3"),
        ("../../etc", "1.0.0", "..%2F..%2Fetc@1.0.0"),
        ("عربي", "1.0.0", "%D8%B9%D8%B1%D8%A8%D9%8A@1.0.0"),
    ],
)
def test_a_version_has_a_directory_that_people_recognise(model: str, version: str, name: str) -> None:
    assert directory_name(model, version) == name
    assert version_of(name) == (model, version)


@given(NAMES, NAMES, NAMES, NAMES)
def test_no_two_versions_share_a_directory(model: str, version: str, other_model: str, other_version: str) -> None:
    same = (model, version) == (other_model, other_version)
    assert (directory_name(model, version) == directory_name(other_model, other_version)) == same


@given(NAMES, NAMES)
def test_a_directory_is_one_name_that_any_file_system_takes(model: str, version: str) -> None:
    name = directory_name(model, version)
    assert name.isascii() and len(name) <= 255 and "/" not in name and "\0" not in name
    assert name not in (".", "..") and not name.startswith("~")


def test_directories_are_our_users_only(tmp_path: Path) -> None:
    cache_disk.create(tmp_path / "kv" / "a@1")
    cache_disk.create(tmp_path / "kv" / "a@1")  # again, after a restart
    assert [(tmp_path / path).stat().st_mode & 0o777 for path in ("kv", "kv/a@1")] == [0o700, 0o700]


def test_what_lies_there_is_counted_by_version(tmp_path: Path) -> None:
    write(tmp_path, "a@1", ("1.kv", 10, 50.0), ("2.kv", 5, 40.0), ("ledger", 100, 1.0), ("writing.tmp", 100, 1.0))
    (tmp_path / "b@1").mkdir()
    assert cache_disk.survey(tmp_path) == {"a@1": OnDisk(blocks=2, bytes=15, least_recent_use=40.0), "b@1": OnDisk()}
    assert cache_disk.survey(tmp_path / "nowhere") == {}


def test_the_least_recently_used_blocks_go_first(tmp_path: Path) -> None:
    write(tmp_path, "a@1", ("old.kv", 10, 10.0), ("new.kv", 10, 30.0), ("middle.kv", 10, 20.0), ("ledger", 9, 1.0))
    cache_disk.trim(tmp_path, {"a@1": 25}, anybody)
    assert names(tmp_path) == ["a@1/ledger", "a@1/middle.kv", "a@1/new.kv"]
    cache_disk.trim(tmp_path, {"a@1": 0, "gone@1": 0}, anybody)
    assert names(tmp_path) == ["a@1/ledger"]


def test_a_directory_whose_worker_has_been_started_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path, "a@1", ("1.kv", 10, 1.0), ("2.kv", 10, 2.0))
    answers = iter([True, False])
    cache_disk.trim(tmp_path, {"a@1": 0}, lambda _name: next(answers))
    cache_disk.drop(tmp_path, ["a@1"], lambda _name: False)
    assert names(tmp_path) == ["a@1/2.kv"]


def test_links_are_never_followed(tmp_path: Path) -> None:
    write(tmp_path / "outside", "d", ("1.kv", 10, 1.0))
    write(tmp_path / "kv", "a@1", ("1.kv", 10, 1.0))
    (tmp_path / "kv/a@1/2.kv").symlink_to(tmp_path / "outside/d/1.kv")
    (tmp_path / "kv/b@1").symlink_to(tmp_path / "outside/d")
    assert cache_disk.survey(tmp_path / "kv") == {"a@1": OnDisk(blocks=1, bytes=10, least_recent_use=1.0)}
    cache_disk.drop(tmp_path / "kv", ["a@1"], anybody)
    assert names(tmp_path / "outside") == ["d/1.kv"]


def test_a_dropped_directory_goes_with_all_that_is_in_it(tmp_path: Path) -> None:
    write(tmp_path, "a@1", ("1.kv", 10, 1.0), ("ledger", 1, 1.0))
    write(tmp_path, "b@1", ("1.kv", 10, 1.0))
    cache_disk.drop(tmp_path, ["a@1"], anybody)
    assert names(tmp_path) == ["b@1/1.kv"] and not (tmp_path / "a@1").exists()


def test_a_deletion_that_was_cut_short_is_finished(tmp_path: Path) -> None:
    write(tmp_path, "~dropped-1", ("1.kv", 10, 1.0))
    assert cache_disk.survey(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []
