"""What the kernel says of files in memory."""

from pathlib import Path

from inference.supervisor.residence import resident_share


def test_a_file_that_was_just_read_is_there(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"w" * 1_000_001)
    assert file.read_bytes()
    assert resident_share([str(file)]) == 1.0


def test_what_was_never_read_is_not(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    with file.open("wb") as made:
        made.truncate(10_000_000)
    assert resident_share([str(file)]) < 0.1


def test_what_can_not_be_looked_at_stops_nobody(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    assert resident_share([str(tmp_path / "gone"), str(tmp_path), str(empty)]) == 1.0
