"""What is listed of files that appear, and what is told of those that can't be used."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from registry import scanning
from registry.models import Model, Version
from registry.selectors import catalogue_load, revision_read
from registry.services import model_set_default
from tests.gguf_files import write_empty, write_model, write_text, write_truncated
from tests.integration.registry.reading import Scan, ids, version_of

FileState = Version.FileState


def test_a_dropped_in_folder_is_listed_with_what_its_header_says(scan: Scan, models_dir: Path) -> None:
    path = write_model(models_dir / "Tiny-1" / "model.gguf", context_length=256)

    report = scan()

    version = version_of("Tiny-1")
    assert report.discovered == ("Tiny-1",)
    assert (version.path, version.files) == (str(models_dir / "Tiny-1"), [str(path)])
    assert (version.architecture, version.quantization, version.context_length) == ("llama", "F32", 256)
    assert (version.parameter_count, version.size_bytes) == (42336, path.stat().st_size)
    assert version.capabilities == ["chat", "completion"]
    assert (version.file_state, version.health) == (FileState.PRESENT, "healthy")


def test_the_first_version_is_promoted_and_the_first_model_is_the_default(scan: Scan, models_dir: Path) -> None:
    write_model(models_dir / "a.gguf")
    scan()
    write_model(models_dir / "b.gguf")
    scan()

    catalogue = catalogue_load()

    assert catalogue.default is not None
    assert catalogue.default.id == "a"
    assert all(model.promoted and model.promoted.version == "1.0.0" for model in catalogue.models.values())


def test_an_embedding_model_does_not_become_the_default(scan: Scan, models_dir: Path) -> None:
    write_model(models_dir / "a-embedder.gguf", architecture="bert")
    write_model(models_dir / "b.gguf")

    scan()

    default = catalogue_load().default
    assert default is not None
    assert default.id == "b"


def test_a_default_that_an_operator_chose_stays(scan: Scan, models_dir: Path) -> None:
    write_model(models_dir / "a.gguf")
    write_model(models_dir / "b.gguf")
    scan()
    model_set_default(name="b")

    scan()

    assert list(Model.objects.filter(is_default=True).values_list("name", flat=True)) == ["b"]


def test_each_new_model_is_logged_once(scan: Scan, models_dir: Path) -> None:
    write_model(models_dir / "a.gguf")

    with structlog.testing.capture_logs() as logs:
        scan()
        scan()

    discovered = [entry for entry in logs if entry["event"].startswith("Model discovered")]
    assert [(entry["event"], entry["model_id"], entry["log_level"]) for entry in discovered] == [
        ("Model discovered: a", "a", "info")
    ]
    assert discovered[0]["module"] == "model_registry"


def test_an_idle_scan_reads_no_header_and_changes_no_revision(scan: Scan, models_dir: Path) -> None:
    write_model(models_dir / "a.gguf")
    write_text(models_dir / "broken.gguf")
    write_model(models_dir / "Several" / "one.gguf")
    write_model(models_dir / "Several" / "two.gguf")
    scan()
    reads, revision = scanning.headers.reads, revision_read()

    report = scan()

    assert (scanning.headers.reads, revision_read()) == (reads, revision)
    assert (report.discovered, report.versions, report.missing) == ((), (), ())


@pytest.mark.parametrize(
    ("write", "state", "reason"),
    [
        (write_truncated, FileState.INCOMPLETE, "there: still being copied, or truncated"),
        (write_empty, FileState.INVALID, "empty file"),
        (write_text, FileState.INVALID, "not a GGUF: begins with 'This is not a mo'"),
    ],
)
def test_a_broken_file_is_listed_unhealthy_with_the_reason(
    scan: Scan, models_dir: Path, write: Callable[[Path], Path], state: str, reason: str
) -> None:
    write(models_dir / "Broken" / "model.gguf")
    write_model(models_dir / "good.gguf")

    report = scan()

    version = version_of("Broken")
    assert report.discovered == ("good",)
    assert reason in report.unusable["Broken"]
    assert (version.file_state, version.health) == (state, "unhealthy")
    assert reason in version.health_reason
    assert catalogue_load().models["Broken"].promoted is None


def test_a_file_that_is_being_copied_is_discovered_with_its_last_byte(scan: Scan, models_dir: Path) -> None:
    whole = write_model(models_dir.parent / "source.gguf").read_bytes()
    target = models_dir / "Copied" / "model.gguf"
    target.parent.mkdir()

    for share in (0.0, 0.001, 0.3, 0.999):
        target.write_bytes(whole[: int(len(whole) * share)])
        assert scan().discovered == ()
        assert version_of("Copied").health == "unhealthy"
    target.write_bytes(whole)

    assert scan().discovered == ("Copied",)
    assert version_of("Copied").health == "healthy"
    assert ids() == ["Copied"]


def test_a_file_of_the_far_future_breaks_no_scan(scan: Scan, models_dir: Path) -> None:
    path = write_model(models_dir / "future.gguf")
    os.utime(path, ns=(2**63 + 5, 2**63 + 5))

    assert scan().discovered == ("future",)


def test_a_models_directory_that_is_not_there_is_empty(scan: Scan, models_dir: Path) -> None:
    report = scan(models_dirs=(models_dir / "none",))

    assert (report.files, report.discovered, report.unusable) == (0, (), {})
