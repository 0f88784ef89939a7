"""The write behind “edit this model”: any of the fields that operators set, validated as a whole."""

from collections.abc import Sequence
from typing import Any

from django.db import transaction

from registry import listing, services
from registry.capability_words import capabilities_checked
from registry.errors import Conflict, InvalidRequest
from registry.models import Model, Version
from registry.parameters import parameters_checked


def model_update(
    *,
    name: str,
    display_name: str | None = None,
    enabled: bool | None = None,
    preload: bool | None = None,
    replicas: int | None = None,
    extra_capabilities: Sequence[str] | None = None,
) -> Model:
    """Change what is not None; announce only what really changes.

    Raises:
        ModelNotFound: with the nearest ids.
        InvalidRequest: a capability that is not a word, or too many of them.
    """
    changes = {
        "display_name": None if display_name is None else display_name.strip(),
        "enabled": enabled,
        "preload": preload,
        "replicas": replicas,
        "extra_capabilities": None if extra_capabilities is None else capabilities_checked(extra_capabilities),
    }
    with transaction.atomic():
        pk = services.model_named(name=name).pk
        model = Model.objects.select_for_update().get(pk=pk)
        changed = {field: value for field, value in changes.items() if value not in (None, getattr(model, field))}
        if changed:
            Model.objects.filter(pk=pk).update(**changed)
    model.refresh_from_db()
    return model


def version_update(*, name: str, number: str, parameters: Any) -> Version:
    """Set a version's parameters, all of them: what is not named is chosen again. Workers that compute with others
    finish what they have and end; the next load has these.

    Raises:
        ModelNotFound: with the nearest ids.
        NotFound: naming the versions there are.
        InvalidRequest: naming the parameter that can't be, and what is allowed.
    """
    checked = parameters_checked(parameters)
    version = listing.version_find(name=name, number=number)
    if version.source == Version.Source.REMOTE and checked:
        raise InvalidRequest(f"{version} is answered elsewhere, where llama.cpp may not even be.", param="parameters")
    Version.objects.filter(pk=version.pk).exclude(parameters=checked).update(parameters=checked)
    version.parameters = checked
    return version


def forgettable(*, model: Model) -> bool:
    """Whether no file of the model is left: what still lies there would be discovered again at once. What a backend
    elsewhere answers would not."""
    here = model.versions.exclude(source=Version.Source.REMOTE)
    return not here.filter(file_state=Version.FileState.PRESENT).exists()


def model_forget(*, name: str) -> None:
    """Delete a model whose files have vanished, with its versions and what was counted.

    Raises:
        ModelNotFound: with the nearest ids.
        Conflict: a file of it is still there.
    """
    with transaction.atomic():
        model = Model.objects.select_for_update().get(pk=services.model_named(name=name).pk)
        if not forgettable(model=model):
            raise Conflict(f"'{name}' still has a file: move it out of the models directory first, or disable it.")
        model.delete()


def version_forget(*, name: str, number: str) -> None:
    """Delete a version whose file has vanished or was replaced, or that a backend elsewhere answers.

    Raises:
        ModelNotFound: with the nearest ids.
        NotFound: naming the versions there are.
        Conflict: its file is still there, or it is the one that the bare id means.
    """
    with transaction.atomic():
        version = listing.version_find(name=name, number=number)
        gone = version.file_state in (Version.FileState.MISSING, Version.FileState.REPLACED)
        if not gone and version.source != Version.Source.REMOTE:
            raise Conflict(f"{version} still has a file: move it out of the models directory first.")
        # Without it, the next scan would promote whatever there is, which nobody has decided.
        if version.model.promoted_id == version.pk:
            raise Conflict(
                f"{version} is what '{version.model.name}' means. Promote another version first, or delete the model "
                "as a whole."
            )
        version.delete()
