"""``manage.py models``: what it prints, and the errors that teach."""

import io
import json
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command

from registry.models import Replica
from registry.services import node_register
from tests.gguf_files import write_model, write_text
from tests.integration.registry.reading import version_of


def models(*arguments: str) -> str:
    out = io.StringIO()
    call_command("models", *arguments, stdout=out, stderr=out)
    return out.getvalue()


@pytest.fixture
def folder(db: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The models directory of the settings, empty, and no starter."""
    import dataclasses

    environment = dataclasses.replace(settings.NOPENAI, models_dirs=(tmp_path,), starter_model=False)
    monkeypatch.setattr(settings, "NOPENAI", environment)
    return tmp_path


def test_scan_tells_what_is_new_and_what_can_not_be_used(folder: Path) -> None:
    write_model(folder / "tiny.gguf")
    write_text(folder / "notes.gguf")

    printed = models("scan")

    assert "2 GGUF files" in printed
    assert "New: tiny\n" in printed
    assert "Can't be used: notes: not a GGUF" in printed


def test_list_shows_models_as_a_table_and_as_json(folder: Path) -> None:
    assert "No model is known yet" in models("list")
    write_model(folder / "tiny.gguf")
    models("scan")

    table, record = models("list"), json.loads(models("list", "--json"))

    assert table.splitlines()[1].split() == ["tiny", "1.0.0", "healthy", "cold", "42.3K", "F32", "0.2", "default"]
    assert (record["id"], record["is_default"]) == ("tiny", True)


def test_add_registers_a_version_and_tells_which_one_serves(folder: Path) -> None:
    models("add", "Tiny", str(write_model(folder / "a.gguf")), "--capability", "arabic_nlp", "--preload")

    printed = models("add", "Tiny", str(write_model(folder / "b.gguf", seed=1)), "--model-version", "1.1.0")

    assert "Tiny@1.1.0 is registered" in printed
    assert "still means Tiny@1.0.0" in printed
    assert version_of("Tiny").model.extra_capabilities == ["arabic_nlp"]


def test_load_and_unload_ask_the_nodes(folder: Path) -> None:
    write_model(folder / "tiny.gguf")
    models("scan")
    node_register(name="here", ram_budget_mb=1000, pid=1)

    assert models("load", "tiny") == "Asked 1 node to load and keep tiny@1.0.0.\n"
    assert models("load", "tiny@1.0.0", "--node", "here").startswith("Nothing to do")
    assert Replica.objects.get().desired == "running"
    assert models("unload", "tiny") == "Asked 1 node to unload tiny@1.0.0.\n"
    assert Replica.objects.get().desired == "stopped"


def test_a_replaced_file_is_promoted_as_the_reason_says_and_its_old_version_deleted(folder: Path) -> None:
    write_model(folder / "tiny.gguf")
    models("scan")
    write_model(folder / "tiny.gguf", layers=3)
    models("scan")
    reason = version_of("tiny", "1.0.0").health_reason
    assert reason.endswith(".venv/bin/python manage.py models promote tiny@1.0.1")
    with pytest.raises(CommandError, match=r"can't be the default: .*models promote tiny@1\.0\.1"):
        models("default", "tiny")
    with pytest.raises(CommandError, match="Promote another version first"):
        models("delete", "tiny@1.0.0")

    assert models("promote", "tiny@1.0.1") == "'tiny' now means tiny@1.0.1.\n"

    assert models("default", "tiny") == "'tiny' answers requests that name no model.\n"
    assert models("delete", "tiny@1.0.0") == "'tiny@1.0.0' is deleted.\n"
    assert json.loads(models("list", "--json"))["versions"] == ["1.0.1"]


def test_a_model_is_disabled_and_enabled(folder: Path) -> None:
    write_model(folder / "tiny.gguf")
    models("scan")
    assert "answers no request" in models("disable", "tiny")
    with pytest.raises(CommandError, match=r"it is disabled\. Enable it first: .*models enable tiny"):
        models("default", "tiny")
    assert models("enable", "tiny") == "'tiny' is enabled.\n"


def test_what_has_vanished_is_deleted_and_what_is_there_is_not(folder: Path) -> None:
    file = write_model(folder / "tiny.gguf")
    models("scan")
    with pytest.raises(CommandError, match="still has a file"):
        models("delete", "tiny")
    file.unlink()
    models("scan")
    with pytest.raises(CommandError, match="can't be the default: it can't answer"):
        models("default", "tiny")
    assert models("delete", "tiny") == "'tiny' is deleted.\n"
    assert "No model is known yet" in models("list")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("load", "tinny"), "Nearest: tiny"),
        (("load", "tiny@2.0.0"), "it has: 1.0.0"),
        (("promote", "tiny"), "Say which version of 'tiny', as tiny@<version>; it has: 1.0.0"),
        (("promote", "tiny@2.0.0"), "it has: 1.0.0"),
        (("delete", "tiny@1.0.0"), "still has a file"),
        (("load", "tiny"), "no supervisor has started yet"),
        (("add", "x", "/etc/hosts"), "does not lie below a models directory"),
    ],
)
def test_faults_say_what_to_do(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    write_model(folder / "tiny.gguf")
    models("scan")

    with pytest.raises(CommandError, match=message):
        models(*arguments)


def test_alone_it_says_what_there_is() -> None:
    printed = models()
    for word in ("list", "promote", "disable", "delete"):
        assert word in printed
