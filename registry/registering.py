"""An operator names a file: it becomes that version of that model, whatever discovery made of it before."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
from django.conf import settings
from django.db import transaction

from registry import locks
from registry.capability_words import capabilities_checked
from registry.discovery import layout
from registry.discovery.files import list_path
from registry.discovery.layout import Content, Found
from registry.discovery.placement import FIRST, RESERVED
from registry.errors import Conflict, InvalidRequest
from registry.models import MODEL_ID_PATTERN, Model, Version
from registry.scanning import headers
from registry.settling import (
    choose_default,
    content_columns,
    is_content_of,
    promote_first,
    version_change,
    version_replaced,
    version_show,
)

log = structlog.get_logger(module="model_registry")


def model_register(
    *,
    name: str,
    path: str,
    models_dirs: Sequence[Path],
    version: str | None = None,
    display_name: str | None = None,
    capabilities: Sequence[str] | None = None,
    preload: bool | None = None,
) -> Version:
    """Make the GGUF at ``path`` a version of model ``name``. Asking again for what is so changes nothing.

    1. The version is known with this content: it is shown to lie here.
    2. It is known with other content: refused, a version is immutable.
    3. It is not known, but discovery has listed the file as something else: that entry becomes this version.
    4. Neither is known: both are made.

    Args:
        path: a file or a folder below one of ``models_dirs``, links resolved; relative to the project's root.
        version: ``major.minor.patch``; 1.0.0 if None.
        capabilities: beyond what the GGUF says; None leaves them as they are.

    Raises:
        InvalidRequest: naming the field.
        Conflict: in case 2, or when the file is registered already as something else.
    """
    check_name(name)
    number = parsed_number(version)
    words = None if capabilities is None else capabilities_checked(capabilities, param="capabilities")
    found = _found(path, models_dirs)
    if found.content is None:
        raise InvalidRequest(f"'{path}' can't be used: {found.fault.reason if found.fault else ''}.", param="path")
    with locks.locked(locks.SCAN), transaction.atomic():
        model = model_of(name, display_name)
        registered = _version(model, number, found, found.content)
        model_set(model, display_name=display_name, extra_capabilities=words, preload=preload)
        promote_first(model, model.versions.all())
        choose_default()
    log.info(f"Model registered: {registered}", model_id=name, version=registered.number, path=registered.path)
    return Version.objects.select_related("model").get(pk=registered.pk)


# --- What was asked for ----------------------------------------------------------------------------------------------


def check_name(name: str) -> None:
    if name in RESERVED:
        raise InvalidRequest(f"'{name}' {RESERVED[name]}: choose another id.", param="id")
    if not re.fullmatch(MODEL_ID_PATTERN, name) or not name.isprintable() or len(name) > layout.MAX_ID_CHARACTERS:
        raise InvalidRequest(
            f"'{name[:80]}' can't be an id: use 1 to {layout.MAX_ID_CHARACTERS} printable characters, "
            "no white space, no @, and no leading / or :.",
            param="id",
        )


def parsed_number(version: str | None) -> layout.Number:
    number = FIRST if version is None else layout.parse_number(version)
    if number is None:
        raise InvalidRequest(f"'{version}' is no version: use major.minor.patch, such as 1.1.0.", param="version")
    return number


def _found(path: str, models_dirs: Sequence[Path]) -> Found:
    place = _allowed(path, models_dirs)
    if place is None:  # whether something exists elsewhere is not told
        allowed = ", ".join(str(root) for root in models_dirs)
        raise InvalidRequest(f"'{path}' does not lie below a models directory ({allowed}).", param="path")
    found = layout.find(list_path(place, headers))
    if not found:
        raise InvalidRequest(f"There is no GGUF model at '{path}'.", param="path")
    if len(found) > 1:
        files = ", ".join(Path(one.files[0]).name for one in found[:5])
        raise InvalidRequest(f"'{path}' holds {len(found)} models; name one of its files: {files}.", param="path")
    return found[0]


def _allowed(path: str, models_dirs: Sequence[Path]) -> Path | None:
    """Where ``path`` leads, if that is below a models directory; spelled as a scan will come to it, if it will."""
    named = Path(os.path.abspath(settings.BASE_DIR / Path(path)))  # noqa: PTH100 (links are resolved below)
    resolved = _resolved(settings.BASE_DIR / Path(path))
    if resolved is None or not any(resolved.is_relative_to(root.resolve()) for root in models_dirs):
        return None
    is_spelled_well = any(named.is_relative_to(root) for root in models_dirs) and _resolved(named) == resolved
    return named if is_spelled_well else resolved


def _resolved(path: Path) -> Path | None:
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError):  # links in a circle, a name that is too long, a NUL
        return None


# --- What becomes of it ----------------------------------------------------------------------------------------------


def model_of(name: str, display_name: str | None) -> Model:
    model, _ = Model.objects.select_related("alias_of").get_or_create(
        name=name, defaults={"display_name": display_name or name}
    )
    if model.alias_of is not None:
        raise Conflict(f"'{name}' is another name of '{model.alias_of.name}': use that.", param="id")
    return model


def _version(model: Model, number: layout.Number, found: Found, content: Content) -> Version:
    major, minor, patch = number
    version = model.versions.filter(major=major, minor=minor, patch=patch).first()
    owner = _owner(found)
    if version is not None and version != owner:
        return _found_again(version, owner, found, content)
    if owner is None:
        return _created(model, number, found, content)
    if version is None and owner.source == Version.Source.REGISTERED:
        raise Conflict(f"That file is registered already, as {owner}.", param="path")
    return _adopted(owner, model, number, found, content)


def _owner(found: Found) -> Version | None:
    """The version that the file is listed as. Discovery lists files by the way it came to them, links included."""
    file = _resolved(Path(found.files[0]))
    candidates = Version.objects.exclude(file_state=Version.FileState.REPLACED).select_related("model").order_by("-pk")
    return next(
        (version for version in candidates if version.files and _resolved(Path(version.files[0])) == file), None
    )


def _found_again(version: Version, owner: Version | None, found: Found, content: Content) -> Version:
    if not is_content_of(version, content):
        raise Conflict(
            f"{version} is known with other content, and a version is immutable: register the next one.",
            param="version",
        )
    if version.file_state != Version.FileState.PRESENT and owner is None:
        _show(version, found)
    version_change(version, source=Version.Source.REGISTERED)
    return version


def _created(model: Model, number: layout.Number, found: Found, content: Content) -> Version:
    major, minor, patch = number
    version = Version.objects.create(
        model=model,
        major=major,
        minor=minor,
        patch=patch,
        source=Version.Source.REGISTERED,
        path=found.path,
        files=list(found.files),
        **content_columns(content),
    )
    _show(version, found)
    return version


def _adopted(owner: Version, model: Model, number: layout.Number, found: Found, content: Content) -> Version:
    """Discovery's entry becomes what the operator says it is."""
    if owner.header_digest and not is_content_of(owner, content):
        if (owner.model_id, owner.major, owner.minor, owner.patch) == (model.pk, *number):
            raise Conflict(f"The file of {owner} has changed, and a version is immutable: register the next one.")
        version = _created(model, number, found, content)
        version_replaced(owner, by=version)
        return version
    _move(owner, model, number)
    if not owner.header_digest:
        version_change(owner, **content_columns(content))
    _show(owner, found)
    return owner


def _move(version: Version, model: Model, number: layout.Number) -> None:
    former = version.model
    major, minor, patch = number
    if former != model:
        Model.objects.filter(pk=former.pk, promoted=version).update(promoted=None)
    version_change(version, model=model, major=major, minor=minor, patch=patch, source=Version.Source.REGISTERED)
    if former == model:
        return
    former.refresh_from_db()
    if former.versions.exists():
        promote_first(former, former.versions.all())
        return
    inherits_default = former.is_default
    former.delete()
    if inherits_default:
        Model.objects.filter(pk=model.pk).update(is_default=True)


def _show(version: Version, found: Found) -> None:
    """The file is there. A spelling by which scans come to it already is kept."""
    listed = bool(version.files) and _resolved(Path(version.files[0])) == _resolved(Path(found.files[0]))
    version_show(
        version,
        path=version.path if listed else found.path,
        files=version.files if listed else list(found.files),
        modified_ns=found.modified_ns,
    )


def model_set(model: Model, **columns: Any) -> None:
    changed = {name: value for name, value in columns.items() if value not in (None, getattr(model, name))}
    if changed:
        Model.objects.filter(pk=model.pk).update(**changed)
