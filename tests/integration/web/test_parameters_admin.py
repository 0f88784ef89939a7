"""A version's page in the admin: its parameters as a form, what was measured, and the button that forgets it."""

import html
import re
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from registry import editing, tuning
from registry.models import Tuning, Version
from registry.presentation import count_text
from tests.integration.web.staff import staff

pytestmark = pytest.mark.usefixtures("models")

INLINE = {"tunings-TOTAL_FORMS": "0", "tunings-INITIAL_FORMS": "0"}


@pytest.fixture
def viewer(db: None) -> Client:
    return staff("view_version", "view_tuning")


@pytest.fixture
def version(models: object) -> Version:
    return Version.objects.get(model__name="tiny")


def page(version: Version, name: str = "change") -> str:
    return reverse(f"admin:registry_version_{name}", args=[version.pk])


def saved(client: Client, version: Version, **fields: Any) -> dict[str, Any]:
    client.post(page(version), INLINE | fields)
    version.refresh_from_db()
    parameters: dict[str, Any] = version.parameters
    return parameters


def measured(version: Version) -> None:
    step = {"parameters": {"unified": True}, "decode_seconds": 0.0123, "mixed_seconds": 0.2}
    tuning.tuning_record(
        version_pk=version.pk, machine="Z80, 1 cores", under={}, parameters={"threads": 1}, measured=[step]
    )


def test_each_kind_of_parameter_is_set_shown_and_cleared(root: Client, version: Version) -> None:
    wanted = {"threads": 2, "kv_type": "q8_0", "unified": False, "rope_freq_scale": 0.5}
    fields = wanted | {"unified": "false"}
    assert saved(root, version, **fields) == wanted
    shown = root.get(page(version)).context["adminform"].form.initial
    assert {name: shown[name] for name in wanted} == fields
    assert saved(root, version, threads="2", unified="true") == {"threads": 2, "unified": True}
    assert saved(root, version) == {}


def test_each_says_what_it_does_and_what_it_may_be(root: Client, version: Version) -> None:
    text = html.unescape(root.get(page(version)).content.decode())
    assert "The longest prompt and answer of one request together. A whole number from 64 to 16777216." in text
    assert "Whether text that repeats itself or its prompt is guessed ahead." in text


def test_one_that_can_not_be_is_told_at_its_field(root: Client, version: Version) -> None:
    answer = root.post(page(version), INLINE | {"threads": "0", "lanes": "4"})
    assert "a whole number from 1 to 512" in answer.context["adminform"].form.errors["threads"][0]
    version.refresh_from_db()
    assert version.parameters == {}


def test_who_may_only_look_sees_parameters_and_changes_none(viewer: Client, version: Version) -> None:
    editing.version_update(name="tiny", number="1.0.0", parameters={"kv_type": "q8_0"})
    assert "kv_type q8_0" in viewer.get(page(version)).content.decode()
    assert viewer.post(page(version), INLINE | {"threads": "2"}).status_code == 403


def test_content_stays_read_only(root: Client, version: Version) -> None:
    before = version.path
    saved(root, version, path="/elsewhere.gguf", health="healthy", threads="2")
    assert (version.path, version.parameters) == (before, {"threads": 2})


def test_what_was_measured_is_shown_and_can_be_forgotten(root: Client, version: Version) -> None:
    measured(version)
    text = root.get(page(version)).content.decode()
    assert "Z80, 1 cores" in text and "threads 1" in text and "12.3 ms, 200 ms: unified true" in text
    root.post(page(version, "measure_again"))
    assert not Tuning.objects.exists()


@pytest.mark.parametrize("place", ["version", "versions", "model"])
def test_how_many_parameters_the_file_has_is_not_mixed_up_with_those_that_are_set(
    root: Client, version: Version, place: str
) -> None:
    editing.version_update(name="tiny", number="1.0.0", parameters={"rope_freq_scale": 0.25})
    pages = {
        "version": page(version),
        "versions": reverse("admin:registry_version_changelist"),
        "model": reverse("admin:registry_model_change", args=[version.model_id]),
    }
    text = re.sub(r"<[^>]*>|\s", "", html.unescape(root.get(pages[place]).content.decode()))
    assert str(count_text(version.parameter_count)) in text
    assert '{"rope_freq_scale":0.25}' not in text
