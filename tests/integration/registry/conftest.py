"""A models directory of its own for each test, and a scan of it."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # pytest loads this file before Django is set up
    from tests.integration.registry.reading import Scan


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def scan(models_dir: Path, db: None) -> "Scan":
    from registry.services import ScanReport, models_scan

    def run(*, starter_model: bool = False, models_dirs: tuple[Path, ...] = (models_dir,)) -> ScanReport:
        return models_scan(models_dirs=models_dirs, starter_model=starter_model)

    return run
