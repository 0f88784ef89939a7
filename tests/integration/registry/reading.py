"""What tests look up in the tables."""

from collections.abc import Callable

from registry.models import Model, Version
from registry.services import ScanReport

Scan = Callable[..., ScanReport]


def version_of(name: str, number: str = "1.0.0") -> Version:
    major, minor, patch = number.split(".")
    return Version.objects.select_related("model__promoted").get(
        model__name=name, major=major, minor=minor, patch=patch
    )


def ids() -> list[str]:
    return list(Model.objects.order_by("name").values_list("name", flat=True))
