"""Models and versions as the registry would tell of them, with no more said than a test cares about."""

from typing import Any

from registry.catalogue import Health, Model, Version


def a_version(model: str, pk: int = 1, **changes: Any) -> Version:
    """Healthy, and able to write text."""
    fields: dict[str, Any] = {
        "pk": pk,
        "model": model,
        "version": "1.0.0",
        "path": f"vendor/layerModels/{model}",
        "files": (f"/models/{model}.gguf",),
        "size_bytes": 1,
        "parameter_count": 135_000_000,
        "capabilities": frozenset({"chat", "completion"}),
        "health": Health.HEALTHY,
    }
    return Version(**(fields | changes))


def a_remote_model(name: str, pk: int = 1, **changes: Any) -> Model:
    """Of one version, which a backend elsewhere answers; the changes are to that."""
    elsewhere: dict[str, Any] = {"path": "https://backend.test/v1", "files": (), "size_bytes": 0, "remote": True}
    return a_model(name, a_version(name, pk, **(elsewhere | changes)))


def a_model(name: str, *versions: Version | int, **changes: Any) -> Model:
    """Enabled; the first of its versions is promoted. A number stands for :func:`a_version` with that primary key."""
    known = [each if isinstance(each, Version) else a_version(name, each) for each in versions]
    fields: dict[str, Any] = {
        "id": name,
        "display_name": name,
        "enabled": True,
        "preload": False,
        "is_default": False,
        "starter": False,
        "created": 1_700_000_000,
        "use_count": 0,
        "versions": {version.version: version for version in known},
        "promoted": known[0] if known else None,
    }
    return Model(**(fields | changes))
