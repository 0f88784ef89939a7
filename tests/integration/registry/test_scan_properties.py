"""Whatever happens to the files between two scans."""

import random
import shutil
from pathlib import Path

import gguf
import pytest

from registry.models import Model, Version
from registry.selectors import catalogue_load, revision_read
from registry.services import versions_hash
from tests.gguf_files import write_model, write_shards
from tests.integration.registry.reading import Scan

PLACES = (
    "a.gguf",
    "a/x.gguf",
    "a/y.gguf",
    "a/1.0.0/z.gguf",
    "a/1.1.0/z.gguf",
    "b.gguf",
    "b/x.gguf",
    "b/s-00001-of-00002.gguf",
    "b/s-00002-of-00002.gguf",
    "auto.gguf",
)


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("contents")
    files = [
        write_model(folder / "1.gguf"),
        write_model(folder / "2.gguf", seed=2),
        write_model(folder / "3.gguf", context_length=99),
        write_model(folder / "4.gguf", file_type=gguf.LlamaFileType.MOSTLY_Q8_0),
        *write_shards(folder, "s", 2),
    ]
    whole = [file.read_bytes() for file in files]
    return [*whole, b"", b"not a model", whole[0][:5000], whole[3][:-1]]


@pytest.mark.parametrize("seed", range(12))
def test_the_tables_agree_with_the_files_and_a_second_scan_finds_nothing(
    scan: Scan, models_dir: Path, contents: list[bytes], seed: int
) -> None:
    chance = random.Random(seed)
    for _ in range(10):
        for _ in range(chance.randint(1, 4)):
            _meddle(models_dir, contents, chance)

        scan(starter_model=chance.random() < 0.5)
        if chance.random() < 0.5:
            versions_hash(settled_seconds=-1e12)
        report = scan(starter_model=False)
        revision = revision_read()
        again = scan(starter_model=False)

        assert revision_read() == revision
        assert (again.discovered, again.versions, again.missing) == ((), (), ())
        assert again.unusable == report.unusable
        _check(models_dir)


def _meddle(models_dir: Path, contents: list[bytes], chance: random.Random) -> None:
    place = models_dir / chance.choice(PLACES)
    match chance.choice(["write", "write", "delete", "move"]):
        case "write":
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(chance.choice(contents))
        case "delete":
            place.unlink(missing_ok=True)
        case "move" if place.exists():
            target = models_dir / chance.choice(PLACES)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(place, target)


def _check(models_dir: Path) -> None:
    there = {str(path) for path in models_dir.rglob("*.gguf")}
    owners = Version.objects.filter(file_state__in=["present", "incomplete", "invalid", "conflict"])
    owned: list[str] = [version.files[0] for version in owners]
    assert len(owned) == len(set(owned)), "two versions own one file"
    for version in owners:
        assert set(version.files) & there, f"{version} is {version.file_state} without a file"
    # Every file is somewhere: in a version, or behind the first shard of one.
    assert there <= {file for version in owners for file in version.files}
    for version in owners.filter(file_state="present"):
        assert version.size_bytes == sum(Path(file).stat().st_size for file in version.files)
    for model in catalogue_load().models.values():
        assert model.alias_of or model.versions
        servable = [version for version in model.versions.values() if version.health == "healthy"]
        assert model.promoted or not servable
    for default in Model.objects.filter(is_default=True):
        assert not default.starter
