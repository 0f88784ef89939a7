"""Reads of backends: what gateways ask, and what operators see."""

from django.conf import settings
from django.db.models import QuerySet

from registry import listing
from registry.backends import sealing
from registry.backends.models import RemoteBackend
from registry.backends.values import Backend
from registry.errors import NotFound

UNOPENED = (
    "its API key can't be opened: give all nodes the same 'secret_key' file in their data directories, or set the key "
    "anew"
)


def backends_load() -> dict[int, Backend]:
    """All of them, with their keys, by the primary keys of their versions."""
    return {row.pk: backend_value(row) for row in RemoteBackend.objects.all()}


def backend_value(row: RemoteBackend) -> Backend:
    try:
        api_key = sealing.unseal(bytes(row.sealed_key), url=row.url, secret_key=str(settings.SECRET_KEY))
    except sealing.NotOurs:
        return Backend(version_pk=row.pk, url=row.url, model=row.model, fault=UNOPENED)
    return Backend(version_pk=row.pk, url=row.url, model=row.model, api_key=api_key)


def backends_list() -> QuerySet[RemoteBackend]:
    return RemoteBackend.objects.select_related("version__model").order_by("version__model__name", "version_id")


def backend_find(*, name: str, number: str | None) -> RemoteBackend:
    """Of a version by its number; of the promoted one if that is None.

    Raises:
        ModelNotFound, NotFound: as :func:`registry.listing.version_find`; or the version is a file here.
    """
    version = listing.version_find(name=name, number=number)
    row = backends_list().filter(version=version).first()
    if row is None:
        raise NotFound(f"{version} has no backend elsewhere: it is a file here.", param="version")
    return row
