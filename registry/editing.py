"""The write behind “edit this model”: any of the fields that operators set, validated as a whole."""

import re
from collections.abc import Sequence

from django.db import transaction

from registry import services
from registry.errors import InvalidRequest
from registry.models import Model

_CAPABILITY = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_MOST_CAPABILITIES = 32


def model_update(
    *,
    name: str,
    display_name: str | None = None,
    enabled: bool | None = None,
    preload: bool | None = None,
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


def capabilities_checked(words: Sequence[str], *, param: str = "extra_capabilities") -> list[str]:
    """Lower-case words, each once, sorted. Raises InvalidRequest."""
    for word in words:
        if not isinstance(word, str) or not _CAPABILITY.fullmatch(word):
            raise InvalidRequest(
                f"“{word}” is not a capability: use lower-case letters, digits, _ . and -, as in arabic_nlp.",
                param=param,
            )
    if len(set(words)) > _MOST_CAPABILITIES:
        raise InvalidRequest(f"At most {_MOST_CAPABILITIES} capabilities are kept.", param=param)
    return sorted(set(words))
