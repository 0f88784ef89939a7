"""Who calls the control plane, and whether they may.

Three ways in, tried in this order: an API key, the admin's session, and, where no key is required (a loopback host),
nothing at all, which makes an operator. That last one is guarded against web pages that the operator visits: see
:class:`LoopbackAuthentication`.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth.models import User
from rest_framework.authentication import BaseAuthentication, SessionAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied, UnsupportedMediaType
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from quotas import callers
from quotas.access import selectors
from quotas.callers import Role

if TYPE_CHECKING:  # views import this module
    from rest_framework.views import APIView

_OPERATES = ("registry.change_model", "registry.change_replica")
"""The admin permissions that together make a member of staff an operator of the REST API."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """``request.user`` of the REST API, however they came in."""

    name: str
    role: Role
    tenant: str | None = None
    key_pk: int | None = None
    """None: they came in without a key."""
    is_authenticated: ClassVar[bool] = True


class KeyAuthentication(BaseAuthentication):
    """``Authorization: Bearer nok_…``

    A key that is not valid is refused also where none is required. (The gateway ignores it there, since OpenAI's
    clients must send something; here an expired key would otherwise be mightier than it was when it was valid.)
    """

    def authenticate(self, request: Request) -> tuple[Principal, None] | None:
        scheme, _, secret = get_authorization_header(request).decode("latin-1").strip().partition(" ")
        if scheme.lower() != "bearer":
            return None
        caller = selectors.caller_find(callers.digest(secret.strip()))
        if caller is None:
            raise AuthenticationFailed(
                "This API key is unknown or revoked. `.venv/bin/python manage.py keys list` shows all."
            )
        if caller.expired(time.time()):
            raise AuthenticationFailed(f"The API key {caller.prefix}… has expired.")
        name = f"{caller.prefix}…"
        return Principal(name=name, role=caller.role, tenant=caller.tenant, key_pk=caller.key_pk), None

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class AdminSessionAuthentication(SessionAuthentication):
    """Who is signed in to the admin, with Django's CSRF check."""

    def authenticate(self, request: Request) -> tuple[Principal, None] | None:
        user: Any = request._request.user
        if not (user.is_active and user.is_staff):
            return None
        self.enforce_csrf(request)
        return Principal(name=user.get_username(), role=_role_of_staff(user)), None


class LoopbackAuthentication(BaseAuthentication):
    """No credentials at all: an operator, where settings require no key.

    Any web page may make the operator's browser send requests to a loopback address. What such a page can send
    without the browser asking us first is refused: bodies that are not JSON, and every write that carries another
    page's origin (browsers put ``Origin`` on all cross-site writes). A page that points its own name at 127.0.0.1 is
    stopped before, by ALLOWED_HOSTS. Reads need no guard: the browser keeps their answers from the page.
    """

    def authenticate(self, request: Request) -> tuple[Principal, None] | None:
        if settings.NOPENAI.require_api_key:
            return None
        if request.method not in SAFE_METHODS:
            _refuse_other_origins(request)
            _refuse_forms(request)
        return Principal(name="loopback", role=Role.OPERATOR), None


class RolePermission(BasePermission):
    """A view names the ``role`` that it needs, once for all its methods; one that names none needs an admin."""

    def has_permission(self, request: Request, view: "APIView") -> bool:
        needed = Role(getattr(view, "role", Role.ADMIN))
        if not isinstance(request.user, Principal):
            return False
        if not request.user.role.includes(needed):
            raise PermissionDenied(f"This needs the role '{needed}'; {request.user.name} has '{request.user.role}'.")
        return True


def _role_of_staff(user: User) -> Role:
    if user.is_superuser:
        return Role.ADMIN
    return Role.OPERATOR if user.has_perms(_OPERATES) else Role.INFERENCE


def _refuse_other_origins(request: Request) -> None:
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.get_host():
        raise PermissionDenied(f"A page of {origin} may not use this server without an API key.")


def _refuse_forms(request: Request) -> None:
    media_type = request.content_type.partition(";")[0].strip().lower()
    if media_type != "application/json" and (media_type or request.META.get("CONTENT_LENGTH") not in (None, "", "0")):
        raise UnsupportedMediaType(request.content_type)
