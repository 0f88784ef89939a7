"""Models and numbers as people and clients read them."""

import pytest

from registry.catalogue import Health, Model, Version
from registry.presentation import count_text, model_fields, size_text
from tests.catalogue import a_remote_model


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, None),
        (0, "0"),
        (999, "999"),
        (1_000, "1K"),
        (134_515_008, "135M"),
        (999_999, "1M"),
        (8_030_261_248, "8.03B"),
        (70_553_706_496, "70.6B"),
        (70_000_000_000, "70B"),
        (1_041_497_600_000, "1.04T"),
    ],
)
def test_a_count_has_three_digits_and_a_unit(count: int | None, text: str | None) -> None:
    assert count_text(count) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (98_571_423, "94.0 MiB"), (42_949_672_960, "40.0 GiB"), (10**15, "909.5 TiB")],
)
def test_a_size_is_in_powers_of_1024(size_bytes: int, text: str) -> None:
    assert size_text(size_bytes) == text


def version(number: str, **fields: object) -> Version:
    return Version(pk=1, model="m", version=number, path="vendor/m", files=("/m.gguf",), size_bytes=7, **fields)  # type: ignore[arg-type]


def model(*versions: Version, promoted: Version | None) -> Model:
    return Model(
        id="m", display_name="M", enabled=True, preload=False, is_default=False, starter=False, created=1, use_count=3,
        versions={one.version: one for one in versions}, promoted=promoted,
    )  # fmt: skip


def test_a_model_has_the_fields_of_the_guide_and_of_openai() -> None:
    promoted = version(
        "1.0.0",
        architecture="llama",
        parameter_count=70_000_000_000,
        quantization="Q4_K_M",
        context_length=8192,
        capabilities=frozenset({"tools", "chat"}),
        health=Health.HEALTHY,
    )
    assert model_fields(model(promoted, promoted=promoted), state="ready") == {
        "id": "m",
        "object": "model",
        "created": 1,
        "owned_by": "nopenai",
        "display_name": "M",
        "path": "vendor/m",
        "version": "1.0.0",
        "architecture": "llama",
        "parameter_count": "70B",
        "quantization": "Q4_K_M",
        "context_length": 8192,
        "capabilities": ["chat", "tools"],
        "size_bytes": 7,
        "enabled": True,
        "preload": False,
        "remote": False,
        "health_status": "healthy",
        "state": "ready",
        "use_count": 3,
    }


def test_where_a_backend_is_clients_are_not_told() -> None:
    away = a_remote_model("away", path="https://10.0.0.7/v1")
    shown = model_fields(away, state="ready")
    assert (shown["remote"], shown["path"]) == (True, None)
    assert "10.0.0.7" not in str(shown)


def test_without_a_promoted_version_the_newest_is_shown() -> None:
    shown = model_fields(model(version("1.1.0", health=Health.UNHEALTHY), version("1.0.0"), promoted=None))
    assert (shown["version"], shown["health_status"]) == ("1.1.0", "unhealthy")


def test_a_model_without_versions_is_shown_too() -> None:
    shown = model_fields(model(promoted=None))
    assert (shown["version"], shown["health_status"], shown["size_bytes"]) == (None, "unknown", 0)
