"""Files come, grow and go below the models directories of a running supervisor."""

import shutil
import time
from pathlib import Path

import pytest

from registry.models import Version
from tests.gguf_files import write_model
from tests.integration.supervisor.running import NodeProcess, eventually, in_sql

LISTED_SECONDS = 2.0


@pytest.fixture
def gguf(tmp_path: Path) -> bytes:
    return write_model(tmp_path / "source.gguf").read_bytes()


async def listed_within_two_seconds(node: NodeProcess, name: str, since: float) -> None:
    await node.logged(f"Model discovered: {name}")
    await eventually(lambda: file_state(name) == "present")
    assert time.monotonic() - since <= LISTED_SECONDS


def file_state(name: str) -> str | None:
    version = Version.objects.filter(model__name=name).first()
    return version.file_state if version else None


async def settled(node: NodeProcess) -> None:
    """The first scan is over, so what comes is noticed by the watch alone."""
    await node.start()
    await node.logged("Models scanned")


async def test_a_file_that_is_dropped_in_is_listed_within_two_seconds(node: NodeProcess, gguf: bytes) -> None:
    await settled(node)
    (node.models_dir / "Dropped.gguf").write_bytes(gguf)
    await listed_within_two_seconds(node, "Dropped", time.monotonic())


async def test_a_folder_that_is_dropped_in_is_listed_within_two_seconds(node: NodeProcess, gguf: bytes) -> None:
    await settled(node)
    folder = node.models_dir / "Deep" / "1.1.0"
    folder.mkdir(parents=True)
    (folder / "any.gguf").write_bytes(gguf)
    await listed_within_two_seconds(node, "Deep", time.monotonic())


async def test_a_file_that_is_moved_in_is_listed(node: NodeProcess, tmp_path: Path, gguf: bytes) -> None:
    await settled(node)
    (tmp_path / "source.gguf").rename(node.models_dir / "Moved.gguf")
    await listed_within_two_seconds(node, "Moved", time.monotonic())


async def test_a_slow_copy_is_listed_as_incomplete_then_within_two_seconds_of_its_last_byte(
    node: NodeProcess, gguf: bytes
) -> None:
    await settled(node)
    with (node.models_dir / "Slow.gguf").open("wb", buffering=0) as copy:
        copy.write(gguf[: len(gguf) // 2])
        await eventually(lambda: file_state("Slow") == "incomplete")
        copy.write(gguf[len(gguf) // 2 :])
        since = time.monotonic()
    await listed_within_two_seconds(node, "Slow", since)


async def test_a_copy_that_no_event_tells_of_is_listed_too(node: NodeProcess, tmp_path: Path, gguf: bytes) -> None:
    """The file behind a symbolic link lies where nobody watches."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    await settled(node)
    with (elsewhere / "far.gguf").open("wb", buffering=0) as copy:
        copy.write(gguf[: len(gguf) // 2])
        (node.models_dir / "Linked.gguf").symlink_to(elsewhere / "far.gguf")
        await eventually(lambda: file_state("Linked") == "incomplete")
        copy.write(gguf[len(gguf) // 2 :])
        since = time.monotonic()
    await listed_within_two_seconds(node, "Linked", since)


async def test_a_linked_folder_is_watched(node: NodeProcess, tmp_path: Path, gguf: bytes) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (node.models_dir / "Library").symlink_to(elsewhere)
    await settled(node)
    (elsewhere / "any.gguf").write_bytes(gguf)
    await listed_within_two_seconds(node, "Library", time.monotonic())


async def test_a_file_that_is_removed_is_marked_missing(node: NodeProcess, gguf: bytes) -> None:
    await settled(node)
    file = node.models_dir / "Gone.gguf"
    file.write_bytes(gguf)
    await node.logged("Model discovered: Gone")
    file.unlink()
    await eventually(lambda: file_state("Gone") == "missing")


async def test_a_models_directory_that_was_deleted_and_comes_back_is_watched_again(
    node: NodeProcess, gguf: bytes
) -> None:
    await settled(node)
    (node.models_dir / "Before.gguf").write_bytes(gguf)
    await node.logged("Model discovered: Before")
    shutil.rmtree(node.models_dir)
    await eventually(lambda: file_state("Before") == "missing" and node.models_dir.is_dir())
    (node.models_dir / "After.gguf").write_bytes(gguf)
    await eventually(lambda: file_state("After") == "present")


async def test_a_models_directory_that_does_not_exist_is_made(node: NodeProcess) -> None:
    node.models_dir.rmdir()
    await settled(node)
    assert node.models_dir.is_dir()


async def test_rubbish_is_listed_with_its_reason_and_stops_nothing(node: NodeProcess, gguf: bytes) -> None:
    await settled(node)
    (node.models_dir / "Text.gguf").write_text("not a model")
    (node.models_dir / "Empty.gguf").touch()
    (node.models_dir / "Good.gguf").write_bytes(gguf)
    await node.logged("Model discovered: Good")
    await eventually(lambda: file_state("Good") == "present")
    reason = await in_sql(lambda: Version.objects.get(model__name="Text").health_reason)
    assert reason
