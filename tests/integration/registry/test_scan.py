"""What becomes of files that appear, grow, change, move, vanish and return."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import structlog

from registry import scanning
from registry.models import Model, Version
from registry.selectors import catalogue_load, revision_read
from registry.services import model_set_default, versions_hash
from tests.gguf_files import write_empty, write_model, write_projector, write_shards, write_text, write_truncated
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


def test_several_models_in_a_folder_are_told_apart_by_quantization(scan: Scan, models_dir: Path) -> None:
    first = write_model(models_dir / "Tiny" / "a.gguf", file_type=gguf.LlamaFileType.MOSTLY_Q8_0)
    scan()
    write_model(models_dir / "Tiny" / "b.gguf", file_type=gguf.LlamaFileType.MOSTLY_Q4_K_M)

    scan()

    assert ids() == ["Tiny", "Tiny:Q4_K_M", "Tiny:Q8_0"]
    models = catalogue_load().models
    assert models["Tiny"].promoted == models["Tiny:Q8_0"].promoted
    assert models["Tiny:Q8_0"].alias_of == "Tiny"
    assert models["Tiny"].promoted is not None
    assert models["Tiny"].promoted.files == (str(first),)

    first.unlink()
    scan()

    assert ids() == ["Tiny", "Tiny:Q4_K_M", "Tiny:Q8_0"]
    assert version_of("Tiny").file_state == FileState.MISSING


def test_shards_are_one_model_that_is_incomplete_until_all_are_there(scan: Scan, models_dir: Path) -> None:
    shards = write_shards(models_dir / "Sharded", "tiny", 3)
    last = shards[-1].rename(models_dir.parent / "held-back.gguf")

    assert "2 of 3 shards there; missing: tiny-00003-of-00003.gguf" in scan().unusable["Sharded"]
    last.rename(shards[-1])

    assert scan().discovered == ("Sharded",)
    version = version_of("Sharded")
    assert version.files == [str(shard) for shard in shards]
    assert version.parameter_count == 42336
    assert version.size_bytes == sum(shard.stat().st_size for shard in shards)


def test_a_projector_beside_a_model_is_no_model(scan: Scan, models_dir: Path) -> None:
    write_model(models_dir / "Vision" / "model.gguf")
    write_projector(models_dir / "Vision" / "mmproj-f16.gguf")
    write_projector(models_dir / "Vision" / "projector.gguf")

    scan()

    assert ids() == ["Vision"]


def test_a_folder_named_by_a_version_is_that_version(scan: Scan, models_dir: Path) -> None:
    write_model(models_dir / "Tiny" / "1.0.0" / "model.gguf")
    write_model(models_dir / "Tiny" / "1.1.0" / "model.gguf", context_length=1024)

    report = scan()

    assert report.discovered == ("Tiny",)
    assert report.versions == ("Tiny@1.1.0",)
    promoted = version_of("Tiny", "1.1.0").model.promoted
    assert promoted is not None
    assert promoted.number == "1.0.0"


def test_the_second_of_two_files_that_claim_an_id_is_listed_with_the_reason(scan: Scan, models_dir: Path) -> None:
    first = write_model(models_dir / "phi.gguf")
    scan()
    second = write_model(models_dir / "phi" / "model.gguf", context_length=1024)

    report = scan()

    (listed,) = set(ids()) - {"phi"}
    assert listed.startswith("phi~")
    assert f"'phi' belongs to {first}" in report.unusable[listed]
    assert (version_of(listed).file_state, version_of(listed).health) == (FileState.CONFLICT, "unhealthy")
    assert catalogue_load().models[listed].promoted is None

    first.unlink()
    scan()

    assert ids() == ["phi"]
    assert version_of("phi", "1.0.1").files == [str(second)]


def test_no_model_can_be_called_auto(scan: Scan, models_dir: Path) -> None:
    write_model(models_dir / "auto.gguf")

    report = scan()

    assert "auto" not in ids()
    (reason,) = report.unusable.values()
    assert "names the default route" in reason


def test_a_link_to_nothing_and_a_name_that_is_no_utf8_break_no_scan(scan: Scan, models_dir: Path) -> None:
    (models_dir / "dangling.gguf").symlink_to(models_dir / "nowhere")
    (models_dir / "circle.gguf").symlink_to("circle.gguf")
    (models_dir / "round").symlink_to(models_dir)
    os.mkfifo(models_dir / "pipe.gguf")
    shutil.copy(write_model(models_dir / "good.gguf"), os.fsdecode(os.fsencode(models_dir) + b"/bad-\xff.gguf"))

    report = scan()

    assert report.discovered == ("good",)
    assert report.unusable["dangling"] == "is a link to a file that does not exist"
    assert report.unusable["pipe"] == "is not a regular file"
    assert "no valid UTF-8" in report.unusable["bad-\\xff"]
    assert "circle" in report.unusable


def test_links_are_followed(scan: Scan, models_dir: Path) -> None:
    stored = write_model(models_dir.parent / "store" / "blob")
    (models_dir / "Linked").mkdir()
    (models_dir / "Linked" / "model.gguf").symlink_to(stored)

    assert scan().discovered == ("Linked",)


def test_the_starter_is_served_while_there_is_nothing_else(scan: Scan, models_dir: Path) -> None:
    write_text(models_dir / "broken.gguf")

    report = scan(starter_model=True)

    assert report.discovered == ("SmolLM2-135M-Instruct",)
    starter = catalogue_load().default
    assert starter is not None
    assert (starter.id, starter.starter, starter.is_default) == ("SmolLM2-135M-Instruct", True, False)
    assert starter.promoted is not None
    assert (starter.promoted.health, starter.promoted.architecture) == ("healthy", "llama")

    write_model(models_dir / "mine.gguf")
    scan(starter_model=True)

    default = catalogue_load().default
    assert default is not None
    assert default.id == "mine"
    assert version_of("SmolLM2-135M-Instruct").file_state == FileState.PRESENT


def test_the_starter_is_left_out_when_another_model_is_there_or_it_is_switched_off(
    scan: Scan, models_dir: Path
) -> None:
    assert scan(starter_model=False).discovered == ()
    write_model(models_dir / "mine.gguf")

    scan(starter_model=True)

    assert ids() == ["mine"]


def test_the_starter_goes_when_it_is_switched_off(scan: Scan) -> None:
    scan(starter_model=True)

    scan(starter_model=False)

    assert "NOPENAI_STARTER_MODEL=0" in version_of("SmolLM2-135M-Instruct").health_reason


def test_an_operators_own_file_takes_the_starters_id(scan: Scan, models_dir: Path) -> None:
    scan(starter_model=True)
    write_model(models_dir / "SmolLM2-135M-Instruct.gguf")

    scan(starter_model=True)

    model = catalogue_load().models["SmolLM2-135M-Instruct"]
    assert not model.starter
    assert model.promoted is not None
    assert model.promoted.version == "1.0.1"


def test_an_idle_scan_does_not_read_the_starter_again(scan: Scan) -> None:
    scan(starter_model=True)
    reads = scanning.headers.reads

    scan(starter_model=True)

    assert scanning.headers.reads == reads


def test_a_file_of_the_far_future_breaks_no_scan(scan: Scan, models_dir: Path) -> None:
    path = write_model(models_dir / "future.gguf")
    os.utime(path, ns=(2**63 + 5, 2**63 + 5))

    assert scan().discovered == ("future",)


def test_a_models_directory_that_is_not_there_is_empty(scan: Scan, models_dir: Path) -> None:
    report = scan(models_dirs=(models_dir / "none",))

    assert (report.files, report.discovered, report.unusable) == (0, (), {})
