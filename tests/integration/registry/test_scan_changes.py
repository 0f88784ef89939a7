"""What becomes of files that grow, change, move, vanish and return."""

import os
import shutil
from pathlib import Path

from registry.models import Version
from registry.services import versions_hash
from tests.gguf_files import write_model
from tests.integration.registry.reading import Scan, ids, version_of

FileState = Version.FileState


def test_other_content_at_a_path_is_a_new_version_that_waits_for_promotion(scan: Scan, models_dir: Path) -> None:
    path = write_model(models_dir / "Tiny" / "model.gguf")
    scan()
    write_model(path, context_length=1024)

    report = scan()

    assert report.versions == ("Tiny@1.0.1",)
    old, new = version_of("Tiny", "1.0.0"), version_of("Tiny", "1.0.1")
    assert (old.file_state, old.health) == (FileState.REPLACED, "unhealthy")
    assert "1.0.1" in old.health_reason
    assert (new.file_state, new.context_length) == (FileState.PRESENT, 1024)
    assert new.model.promoted == old


def test_content_that_was_replaced_and_comes_back_is_the_version_that_it_was(scan: Scan, models_dir: Path) -> None:
    path = write_model(models_dir / "Tiny" / "model.gguf")
    scan()
    write_model(path, context_length=1024)
    scan()
    write_model(path)

    scan()

    assert version_of("Tiny", "1.0.0").file_state == FileState.PRESENT
    assert version_of("Tiny", "1.0.1").file_state == FileState.REPLACED
    assert Version.objects.count() == 2


def test_a_version_whose_file_is_overwritten_is_unhealthy_until_the_copy_ends(scan: Scan, models_dir: Path) -> None:
    path = write_model(models_dir / "Tiny" / "model.gguf")
    scan()
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    scan()
    assert version_of("Tiny").file_state == FileState.INCOMPLETE
    path.write_bytes(whole)

    report = scan()

    assert (version_of("Tiny").file_state, version_of("Tiny").health) == (FileState.PRESENT, "healthy")
    assert (report.discovered, report.versions) == ((), ())


def test_a_touched_file_stays_the_version_that_it_is(scan: Scan, models_dir: Path) -> None:
    path = write_model(models_dir / "tiny.gguf")
    scan()
    versions_hash(settled_seconds=0)
    digest = version_of("tiny").sha256
    os.utime(path, ns=(1, 1))
    scan()

    assert versions_hash(settled_seconds=-1e12) == 1

    version = Version.objects.get()
    assert (version.sha256, version.file_state, version.hashed_modified_ns) == (digest, FileState.PRESENT, 1)


def test_other_weights_under_an_equal_header_are_told_apart_by_sha256(scan: Scan, models_dir: Path) -> None:
    path = write_model(models_dir / "tiny.gguf")
    os.utime(path, ns=(1, 1))
    scan()
    versions_hash(settled_seconds=0)
    write_model(path, seed=1)
    assert scan().versions == ()

    versions_hash(settled_seconds=-1e12)

    assert version_of("tiny", "1.0.0").file_state == FileState.REPLACED
    assert version_of("tiny", "1.0.1").file_state == FileState.PRESENT
    assert version_of("tiny", "1.0.1").sha256 not in ("", version_of("tiny", "1.0.0").sha256)

    write_model(path)
    scan()
    versions_hash(settled_seconds=-1e12)

    assert version_of("tiny", "1.0.0").file_state == FileState.PRESENT
    assert version_of("tiny", "1.0.1").file_state == FileState.REPLACED
    assert Version.objects.count() == 2


def test_hashing_leaves_files_that_may_still_be_written_to(scan: Scan, models_dir: Path) -> None:
    write_model(models_dir / "tiny.gguf")
    scan()

    assert versions_hash(settled_seconds=3600) == 0
    assert versions_hash(settled_seconds=0) == 1
    assert versions_hash(settled_seconds=0) == 0


def test_a_vanished_model_is_marked_and_comes_back(scan: Scan, models_dir: Path) -> None:
    path = write_model(models_dir / "Tiny" / "model.gguf")
    scan()
    shutil.move(path, models_dir.parent / "away.gguf")

    assert scan().missing == ("Tiny@1.0.0",)
    assert (version_of("Tiny").file_state, version_of("Tiny").health) == (FileState.MISSING, "unhealthy")
    assert scan().missing == ()

    shutil.move(models_dir.parent / "away.gguf", path)
    report = scan()

    assert (version_of("Tiny").file_state, version_of("Tiny").health) == (FileState.PRESENT, "healthy")
    assert (report.discovered, ids()) == ((), ["Tiny"])


def test_a_file_that_is_renamed_within_its_folder_stays_the_same_version(scan: Scan, models_dir: Path) -> None:
    path = write_model(models_dir / "Tiny" / "model.gguf")
    scan()
    renamed = path.rename(path.with_name("better-name.gguf"))

    report = scan()

    assert version_of("Tiny").files == [str(renamed)]
    assert (report.versions, report.missing, Version.objects.count()) == ((), (), 1)


def test_a_file_exchanged_for_one_of_another_name_is_the_next_version(scan: Scan, models_dir: Path) -> None:
    first = write_model(models_dir / "Tiny" / "v1.gguf")
    scan()
    first.unlink()
    write_model(models_dir / "Tiny" / "v2.gguf", context_length=1024)

    scan()

    assert version_of("Tiny", "1.0.0").file_state == FileState.MISSING
    assert version_of("Tiny", "1.0.1").file_state == FileState.PRESENT
