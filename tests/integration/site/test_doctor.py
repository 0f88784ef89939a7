"""What ``manage.py doctor`` has to say about models: faults that clients run into, each with advice that ends it."""

from pathlib import Path

import pytest

from nopenai_site.doctor import Finding, model_findings
from registry import editing, services
from registry.health.judgement import FAILURES
from registry.health.services import health_check, vitals_record
from registry.health.vitals import Vitals
from registry.models import Version
from tests.gguf_files import write_model, write_text

pytestmark = pytest.mark.django_db


def scan(folder: Path) -> None:
    services.models_scan(models_dirs=[folder], starter_model=False)


def only_finding() -> Finding:
    (finding,) = model_findings()
    return finding


def test_a_vanished_model_is_a_fault_until_it_is_deleted(tmp_path: Path) -> None:
    file = write_model(tmp_path / "tiny.gguf")
    scan(tmp_path)
    file.unlink()
    scan(tmp_path)
    assert (
        only_finding().advice == f"Put {file} back, or forget the model: .venv/bin/python manage.py models delete tiny"
    )
    editing.model_forget(name="tiny")
    assert list(model_findings()) == []


def test_a_replaced_model_is_a_fault_until_its_new_content_is_promoted(tmp_path: Path) -> None:
    write_model(tmp_path / "tiny.gguf")
    scan(tmp_path)
    write_model(tmp_path / "tiny.gguf", layers=3)
    scan(tmp_path)
    assert only_finding().advice.endswith("models promote tiny@1.0.1")
    services.version_promote(name="tiny", number="1.0.1")
    assert list(model_findings()) == []


def test_what_is_disabled_is_told_and_is_no_fault(tmp_path: Path) -> None:
    file = write_model(tmp_path / "tiny.gguf")
    scan(tmp_path)
    file.unlink()
    scan(tmp_path)
    services.model_enable(name="tiny", enabled=False)
    assert only_finding().text.startswith("tiny@1.0.0 is not served: vanished")
    assert only_finding().advice == ""


def test_the_advice_fits_what_is_wrong_with_the_file(tmp_path: Path) -> None:
    write_text(tmp_path / "notes.gguf")
    scan(tmp_path)
    assert only_finding().advice == f"Replace {tmp_path / 'notes.gguf'} by a sound GGUF, or remove it"
    write_model(tmp_path / "notes.gguf")
    whole = (tmp_path / "notes.gguf").read_bytes()
    (tmp_path / "notes.gguf").write_bytes(whole[: len(whole) // 2])
    scan(tmp_path)
    assert only_finding().advice.startswith(f"Wait until {tmp_path / 'notes.gguf'} is copied")


def test_a_model_that_can_not_be_loaded_is_to_be_mended_and_checked(tmp_path: Path) -> None:
    write_model(tmp_path / "tiny.gguf")
    scan(tmp_path)
    services.node_register(name="here", ram_budget_mb=1000, pid=1)
    (pk,) = Version.objects.values_list("pk", flat=True)
    services.replica_observe(node="here", version_pk=pk, observed="failed", reason="no memory")
    vitals_record(node="here", vitals=[Vitals(version_pk=pk, failures=FAILURES)])
    health_check(models_dirs=(tmp_path,), starter_model=False)
    assert "no memory" in only_finding().text
    assert "POST /health/check" in only_finding().advice
