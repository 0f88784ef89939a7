"""Registering a file: adopting what discovery made of it, and the refusals."""

from pathlib import Path
from typing import Any

import gguf
import pytest

from registry.errors import ApiError, Conflict, InvalidRequest
from registry.models import Model, Version
from registry.services import model_register, model_set_default
from tests.gguf_files import write_model, write_text
from tests.integration.registry.reading import Scan, ids, version_of


@pytest.fixture
def register(models_dir: Path, db: None) -> Any:
    def run(name: str, path: Path | str, **fields: Any) -> Version:
        return model_register(name=name, path=str(path), models_dirs=(models_dir,), **fields)

    return run


def test_a_file_that_is_not_known_becomes_a_promoted_model(register: Any, models_dir: Path) -> None:
    path = write_model(models_dir / "tiny.gguf")

    version = register("Mine", path, display_name="My own", capabilities=["arabic_nlp"], preload=True)

    assert (version.number, version.source, version.health) == ("1.0.0", Version.Source.REGISTERED, "healthy")
    model = Model.objects.get()
    assert (model.name, model.display_name, model.extra_capabilities) == ("Mine", "My own", ["arabic_nlp"])
    assert (model.preload, model.is_default, model.promoted) == (True, True, version)


def test_a_scan_knows_what_was_registered(register: Any, scan: Scan, models_dir: Path) -> None:
    register("Mine", write_model(models_dir / "tiny.gguf"))

    report = scan()

    assert (report.discovered, report.versions, ids()) == ((), (), ["Mine"])


def test_the_guides_second_version_adopts_the_entry_that_discovery_made(
    register: Any, scan: Scan, models_dir: Path
) -> None:
    write_model(models_dir / "Llama" / "model.gguf")
    write_model(models_dir / "Llama-v1.1" / "model.gguf", context_length=1024)
    scan()

    version = register("Llama", models_dir / "Llama-v1.1", version="1.1.0")

    assert ids() == ["Llama"]
    assert (version.number, version.context_length) == ("1.1.0", 1024)
    promoted = version.model.promoted
    assert promoted is not None
    assert promoted.number == "1.0.0"
    assert scan().discovered == ()
    assert Version.objects.count() == 2


def test_an_adopted_default_stays_the_default(register: Any, scan: Scan, models_dir: Path) -> None:
    write_model(models_dir / "found.gguf")
    scan()
    model_set_default(name="found")

    register("renamed", models_dir / "found.gguf")

    assert list(Model.objects.values_list("name", "is_default")) == [("renamed", True)]


def test_adopting_a_model_of_the_same_id_changes_nothing_but_its_source(
    register: Any, scan: Scan, models_dir: Path
) -> None:
    write_model(models_dir / "Tiny" / "model.gguf")
    scan()
    discovered = version_of("Tiny")

    version = register("Tiny", models_dir / "Tiny")

    assert (version, version.path, version.source) == (discovered, discovered.path, Version.Source.REGISTERED)
    assert register("Tiny", models_dir / "Tiny") == version


def test_a_file_in_conflict_is_settled_by_registering_it(register: Any, scan: Scan, models_dir: Path) -> None:
    write_model(models_dir / "phi.gguf")
    second = write_model(models_dir / "phi" / "model.gguf", context_length=1024)
    scan()

    register("phi-2", second)
    scan()

    assert ids() == ["phi", "phi-2"]
    assert version_of("phi-2").health == "healthy"


def test_a_registered_file_where_scans_do_not_look_is_watched_all_the_same(
    register: Any, scan: Scan, models_dir: Path
) -> None:
    path = write_model(models_dir / ".store" / "sha256-abc")
    register("Hidden", path)
    assert scan().missing == ()
    content = path.read_bytes()
    path.unlink()

    assert scan().missing == ("Hidden@1.0.0",)
    path.write_bytes(content)
    scan()

    assert version_of("Hidden").health == "healthy"


def test_other_content_under_a_known_version_is_a_conflict(register: Any, models_dir: Path) -> None:
    register("Tiny", write_model(models_dir / "a.gguf"))

    with pytest.raises(Conflict, match=r"Tiny@1\.0\.0 is known with other content"):
        register("Tiny", write_model(models_dir / "b.gguf", context_length=1024))


def test_a_registered_file_is_not_registered_again_as_something_else(register: Any, models_dir: Path) -> None:
    path = write_model(models_dir / "a.gguf")
    register("One", path)

    with pytest.raises(Conflict, match=r"registered already, as One@1\.0\.0"):
        register("Two", path)

    assert ids() == ["One"]


def test_an_alias_can_not_be_registered(register: Any, scan: Scan, models_dir: Path) -> None:
    write_model(models_dir / "Tiny" / "a.gguf", file_type=gguf.LlamaFileType.MOSTLY_Q8_0)
    write_model(models_dir / "Tiny" / "b.gguf", file_type=gguf.LlamaFileType.MOSTLY_Q4_0)
    scan()

    with pytest.raises(Conflict, match="another name of 'Tiny'"):
        register("Tiny:Q8_0", models_dir / "Tiny" / "a.gguf")


@pytest.mark.parametrize(
    ("name", "path", "fields", "param", "message"),
    [
        ("Tiny", "/etc/passwd", {}, "path", "does not lie below a models directory"),
        ("Tiny", "{dir}/../tiny.gguf", {}, "path", "does not lie below a models directory"),
        ("Tiny", "{dir}/escape", {}, "path", "does not lie below a models directory"),
        ("Tiny", "{dir}/loop", {}, "path", "no GGUF model|does not lie below"),
        ("Tiny", "{dir}/\0", {}, "path", "does not lie below a models directory"),
        ("Tiny", "{dir}/" + "x" * 5000, {}, "path", "no GGUF model|does not lie below"),
        ("Tiny", "{dir}/none.gguf", {}, "path", "There is no GGUF model"),
        ("Tiny", "{dir}/empty", {}, "path", "There is no GGUF model"),
        ("Tiny", "{dir}", {}, "path", "holds 2 models; name one of its files: good.gguf, text.gguf"),
        ("Tiny", "{dir}/text.gguf", {}, "path", "not a GGUF: begins with"),
        ("Tiny", "{dir}/good.gguf", {"version": "1.0"}, "version", r"use major\.minor\.patch"),
        ("Tiny", "{dir}/good.gguf", {"version": "01.0.0"}, "version", r"use major\.minor\.patch"),
        ("Tiny", "{dir}/good.gguf", {"version": "1.0.99999999999"}, "version", r"use major\.minor\.patch"),
        ("Ti ny", "{dir}/good.gguf", {}, "id", "can't be an id"),
        ("Tiny@2", "{dir}/good.gguf", {}, "id", "can't be an id"),
        ("", "{dir}/good.gguf", {}, "id", "can't be an id"),
        ("x" * 201, "{dir}/good.gguf", {}, "id", "can't be an id"),
        ("a\0b", "{dir}/good.gguf", {}, "id", "can't be an id"),
        ("auto", "{dir}/good.gguf", {}, "id", "names the default route"),
        ("Tiny", "{dir}/good.gguf", {"capabilities": ["Two words"]}, "capabilities", "not a capability"),
    ],
)
def test_what_is_wrong_is_refused_with_the_field_named(
    register: Any, models_dir: Path, name: str, path: str, fields: dict[str, Any], param: str, message: str
) -> None:
    write_model(models_dir / "good.gguf")
    write_text(models_dir / "text.gguf")
    write_model(models_dir.parent / "tiny.gguf")
    (models_dir / "empty").mkdir()
    (models_dir / "escape").symlink_to("/etc")
    (models_dir / "loop").symlink_to("loop")

    with pytest.raises(InvalidRequest, match=message) as refusal:
        register(name, path.format(dir=models_dir), **fields)

    assert refusal.value.param == param
    assert ids() == []


def test_a_refusal_leaves_nothing_behind(register: Any, models_dir: Path) -> None:
    path = write_model(models_dir / "a.gguf")
    register("One", path)

    with pytest.raises(ApiError):
        register("Brand-New", path)

    assert ids() == ["One"]
