"""The starter model gives way to whatever else there is."""

from pathlib import Path

from registry import scanning
from registry.models import Version
from registry.selectors import catalogue_load
from tests.gguf_files import write_model, write_text
from tests.integration.registry.reading import Scan, ids, version_of

FileState = Version.FileState


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
