"""Which files make one model, and what it is called."""

import os
import shutil
from pathlib import Path

import gguf

from registry.models import Version
from registry.selectors import catalogue_load
from tests.gguf_files import write_model, write_projector, write_shards
from tests.integration.registry.reading import Scan, ids, version_of

FileState = Version.FileState


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
