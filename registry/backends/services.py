"""Writes of backends: an operator names a URL, and it becomes a version of a model; its key is set anew; it is checked.

What is asked of the backend itself is asked outside any transaction.
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from registry import editing, locks
from registry.backends import sealing
from registry.backends.addresses import Policy
from registry.backends.models import RemoteBackend
from registry.backends.selectors import backend_find, backend_value
from registry.backends.values import Backend
from registry.capability_words import capabilities_checked
from registry.catalogue import Health
from registry.errors import Conflict, InvalidRequest
from registry.models import Version
from registry.registering import check_name, model_of, model_set, parsed_number
from registry.settling import choose_default, promote_first, version_change

if TYPE_CHECKING:
    from registry.backends.probing import Probed

log = structlog.get_logger(module="model_registry")

USUAL_CAPABILITIES = ("chat", "completion", "tools")
FORGIVEN = 1
"""So many checks in a row may fail before nobody is sent there any more."""

_LONGEST_MODEL = 200
_LONGEST_KEY = 4096


def backend_register(
    *,
    name: str,
    url: str,
    model: str,
    api_key: str = "",
    version: str | None = None,
    display_name: str | None = None,
    capabilities: Sequence[str] | None = None,
    context_length: int | None = None,
) -> Version:
    """Make what is called ``model`` at ``url`` a version of model ``name``. Asking again for what is so changes nothing
    but the key, if one is given.

    Args:
        url: what its paths follow: ``https://api.example.com/v1``.
        api_key: sent as a bearer token; empty: none, or that which is there.
        version: ``major.minor.patch``; 1.0.0 if None.
        capabilities: all that it can do; :data:`USUAL_CAPABILITIES` if None.
        context_length: in tokens. None: not known.

    Raises:
        InvalidRequest: naming the field.
        Conflict: that version is something else: a version is immutable.
    """
    check_name(name)
    number = parsed_number(version)
    url = _checked_url(url)
    _check_words(model, api_key)
    words = USUAL_CAPABILITIES if capabilities is None else capabilities_checked(capabilities, param="capabilities")
    probed = _probed(Backend(version_pk=0, url=url, model=model, api_key=api_key))
    with locks.locked(locks.SCAN), transaction.atomic():
        owner = model_of(name, display_name)
        known = owner.versions.filter(major=number[0], minor=number[1], patch=number[2]).first()
        if known is not None:
            _require_same(known, url, model)
            row = RemoteBackend.objects.get(version=known)
            if api_key:
                _set_key(row, api_key)
        else:
            known = Version.objects.create(
                model=owner,
                major=number[0],
                minor=number[1],
                patch=number[2],
                source=Version.Source.REMOTE,
                path=url,
                capabilities=list(words),
                context_length=context_length,
            )
            sealed = sealing.seal(api_key, url=url, secret_key=str(settings.SECRET_KEY))
            row = RemoteBackend.objects.create(version=known, url=url, model=model, sealed_key=sealed)
        if api_key or not row.has_key:  # else it was asked without the key that it has
            _note(row, known, probed)
        model_set(owner, display_name=display_name)
        promote_first(owner, owner.versions.all())
        choose_default()
    log.info(f"Model registered: {known}", model_id=name, version=known.number, path=url)
    return Version.objects.select_related("model", "backend").get(pk=known.pk)


def backend_set_key(*, name: str, number: str | None, api_key: str) -> Version:
    """Give a backend another key, or none; then ask it whether it takes that. Gateways follow within a second.

    Raises:
        ModelNotFound, NotFound: as :func:`registry.backends.selectors.backend_find`.
        InvalidRequest: it can't be a key.
    """
    row = backend_find(name=name, number=number)
    _check_words(row.model, api_key)
    probed = _probed(Backend(version_pk=row.pk, url=row.url, model=row.model, api_key=api_key))
    with transaction.atomic():
        _set_key(row, api_key)
        _note(row, row.version, probed)
    log.info("The API key of a backend was set", model_id=row.version.model.name, version=row.version.number)
    return row.version


def backend_forget(*, name: str, number: str) -> None:
    """Delete a version that a backend answers; its model, too, if that has no other.

    Raises:
        ModelNotFound, NotFound: as :func:`registry.backends.selectors.backend_find`.
        Conflict: it is what the bare id means, and there are others.
    """
    model = backend_find(name=name, number=number).version.model
    if model.versions.count() == 1:
        editing.model_forget(name=model.name)
    else:
        editing.version_forget(name=name, number=number)


def backends_check(*, versions: Collection[int] | None = None) -> int:
    """Ask backends how they are, and write down what has changed.

    Args:
        versions: their primary keys; None: all of models that are enabled.

    Returns:
        How many were asked.
    """
    known = RemoteBackend.objects.select_related("version__model")
    rows = list(known.filter(version__model__enabled=True) if versions is None else known.filter(pk__in=versions))
    if not rows:
        return 0
    from registry.backends.probing import probe_all

    for row, probed in zip(rows, probe_all([backend_value(row) for row in rows], _policy()), strict=True):
        with transaction.atomic():
            _note(row, row.version, probed)
    return len(rows)


# --- What was asked for ----------------------------------------------------------------------------------------------


def _policy() -> Policy:
    return Policy(settings.NOPENAI.remote_networks)


def _checked_url(url: str) -> str:
    url = url.strip().rstrip("/")
    if why := _policy().why_not_url(url):
        raise InvalidRequest(f"The URL {why}.", param="url")
    return url


def _check_words(model: str, api_key: str) -> None:
    if not 0 < len(model) <= _LONGEST_MODEL or not model.isprintable():
        raise InvalidRequest(
            f"'model' is how it is called there: 1 to {_LONGEST_MODEL} printable characters.", param="model"
        )
    # It becomes a header. What it was is not told: an error may be logged.
    if len(api_key) > _LONGEST_KEY or not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
        raise InvalidRequest(
            f"'api_key' may be of at most {_LONGEST_KEY} printable ASCII characters without spaces.", param="api_key"
        )


def _require_same(known: Version, url: str, model: str) -> None:
    row = RemoteBackend.objects.filter(version=known).first()
    if row is None or (row.url, row.model) != (url, model):
        is_now = "a file here" if row is None else str(row)
        raise Conflict(f"{known} is {is_now}, and a version is immutable: register the next one.", param="version")


# --- What becomes of it ----------------------------------------------------------------------------------------------


def _probed(backend: Backend) -> "Probed":
    from registry.backends.probing import probe_all  # an HTTP client, which only who asks needs

    return probe_all([backend], _policy())[0]


def _set_key(row: RemoteBackend, api_key: str) -> None:
    row.sealed_key = sealing.seal(api_key, url=row.url, secret_key=str(settings.SECRET_KEY))
    row.keyed_at = timezone.now()
    row.save(update_fields=["sealed_key", "keyed_at"])


def _note(row: RemoteBackend, version: Version, probed: "Probed") -> None:
    """One check that fails may be a moment's; gateways notice by themselves what fails again and again."""
    well = probed.health is not Health.UNHEALTHY
    if well:
        RemoteBackend.objects.filter(pk=row.pk).exclude(missed=0).update(missed=0)
    else:
        RemoteBackend.objects.filter(pk=row.pk).update(missed=F("missed") + 1)
    forgiven = not well and row.missed < FORGIVEN and version.health == Health.HEALTHY
    health = Health.DEGRADED if forgiven else probed.health
    if not version_change(version, health=health.value, health_reason=probed.reason):
        Version.objects.filter(pk=version.pk).update(health_checked_at=timezone.now())  # nobody is told of that alone
