"""A model as clients see it in JSON: the user guide's fields, OpenAI's, and ours. Pure; both planes may use it."""

from typing import Any

from registry import catalogue

OWNER = "nopenai"
_UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K"))


def model_fields(model: catalogue.Model, *, state: str = "cold") -> dict[str, Any]:
    """The fields of ``GET /v1/models/{id}``. ``state`` is that of the promoted version's best replica.

    While no version is promoted, the newest one is shown: its health says why it can't answer. ``reason`` is there
    only where there is one.
    """
    version = model.promoted or next(iter(model.versions.values()), None)
    reason = {"reason": version.health_reason} if version and version.health_reason else {}
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": OWNER,
        "display_name": model.display_name,
        "path": version.path if version and not version.remote else None,
        "version": version.version if version else None,
        "architecture": version.architecture if version else "",
        "parameter_count": count_text(version.parameter_count) if version else None,
        "quantization": version.quantization if version else "",
        "context_length": version.context_length if version else None,
        "capabilities": sorted(version.capabilities) if version else [],
        "size_bytes": version.size_bytes if version else 0,
        "enabled": model.enabled,
        "preload": model.preload,
        "remote": bool(version and version.remote),
        "health_status": version.health if version else catalogue.Health.UNKNOWN,
        "state": state,
        "use_count": model.use_count,
        **reason,
    }


def promotion(model_id: str, number: str) -> str:
    """How an operator makes a version the one that serves."""
    return f".venv/bin/python manage.py models promote {model_id}@{number}"


def count_text(count: int | None) -> str | None:
    """Three digits and a unit, as people name models: 134,515,008 → ``135M``, 8,030,261,248 → ``8.03B``."""
    if count is None:
        return None
    for unit, letter in _UNITS:
        # 999,999 rounds to 1M, not to 1000K.
        if round(count / unit, 3) >= 0.9995:
            return f"{count / unit:.3g}{letter}"
    return str(count)


def size_text(size_bytes: int) -> str:
    """Bytes for people, in powers of 1024: 98,571,423 → ``94.0 MiB``."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
