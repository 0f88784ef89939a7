"""Every failure of the web process becomes one shape, here: OpenAI's JSON for programs, a page for people.

:func:`as_api_error` knows what each exception of DRF, Django and the database means to a client; DRF's handler and
Django's four handlers only deliver it.
"""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import structlog
from django.conf import settings
from django.core import exceptions as core
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.template.loader import render_to_string
from rest_framework import exceptions as drf
from rest_framework.response import Response

from nopenai_site import data_plane
from registry import errors
from registry.errors import ApiError

log = structlog.get_logger(module="web")

DATABASE_RETRY_SECONDS = 2
_LOOK = "/api/docs lists what there is."

Fault = tuple[str | None, str]
"""A field (None: the body as a whole) and what is wrong with it."""


class NotAcceptable(ApiError):
    status = 406
    type = "invalid_request_error"
    default_code = "not_acceptable"


class UnsupportedMediaType(ApiError):
    status = 415
    type = "invalid_request_error"
    default_code = "unsupported_media_type"


class RateLimited(ApiError):
    status = 429
    type = "rate_limit_error"
    default_code = "rate_limited"


# --- Deliver ---------------------------------------------------------------------------------------------------------


def exception_handler(fault: Exception, context: Mapping[str, Any]) -> Response | None:
    """DRF's hook. What we don't know is raised on and becomes a logged 500 (:func:`server_error`)."""
    error = as_api_error(fault)
    if error is None:
        return None
    view, request = context.get("view"), context.get("request")
    if request is not None:
        _log_refusal(request.method, request.path, error)
    challenge = getattr(fault, "auth_header", None)
    headers = _headers(error)
    if isinstance(error, errors.Unauthorized):
        headers["WWW-Authenticate"] = challenge or "Bearer"
    if isinstance(error, errors.MethodNotAllowed) and view is not None:
        headers["Allow"] = ", ".join(view.allowed_methods)
    return Response(error.payload(), status=error.status, headers=headers)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return respond(request, as_api_error(exception) or errors.InvalidRequest("The request can't be understood."))


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    return respond(request, as_api_error(exception) or errors.Forbidden("You may not do that."))


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    message = f"The form is not valid any more: go back, reload the page and send it again. ({reason})"
    return respond(request, errors.Forbidden(message, code="csrf_failed"))


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    there = f"/v1{request.path}"
    look = f"Did you mean {there}? A client's base URL ends in /v1." if there in data_plane.PATHS else _LOOK
    return respond(request, errors.NotFound(f"There is nothing at {request.path}. {look}"))


def server_error(request: HttpRequest) -> HttpResponse:
    """Django calls this while the exception is being handled: a database that is away is told from a fault of ours."""
    error = as_api_error(sys.exc_info()[1])
    return respond(request, error or errors.ServerError("The server made a mistake; its log has the details."))


def respond(request: HttpRequest, error: ApiError) -> HttpResponse:
    _log_refusal(request.method, request.path, error)
    if not _wants_page(request):
        return JsonResponse(error.payload(), status=error.status, headers=_headers(error))
    page = render_to_string("error.html", {"error": error, "database_away": error.code == "database_unavailable"})
    return HttpResponse(page, status=error.status, headers=_headers(error))


def _log_refusal(method: str | None, path: str, error: ApiError) -> None:
    """What is our own fault is logged where it is noticed."""
    if error.status < 500:
        log.info(
            "Refused a request", method=method, path=path, status=error.status, code=error.code, reason=error.message
        )


def _wants_page(request: HttpRequest) -> bool:
    programs_only = request.path.startswith(("/v1/", "/api/v1", "/api/schema"))
    return not programs_only and "text/html" in request.headers.get("Accept", "")


def _headers(error: ApiError) -> dict[str, str]:
    return {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}


# --- Understand ------------------------------------------------------------------------------------------------------


def as_api_error(fault: BaseException | None) -> ApiError | None:
    """What an exception means to a client; None for what is a mistake of ours."""
    match fault:
        case ApiError():
            return fault
        case OperationalError() | InterfaceError():
            log.warning("The database can't be reached", error=str(fault).strip())
            return errors.Unavailable(
                "The database can't be reached. Models that are known go on answering; try this again in a moment.",
                code="database_unavailable",
                retry_after=DATABASE_RETRY_SECONDS,
            )
        case drf.ValidationError():
            return _validation_error(fault)
        case drf.ParseError():
            return errors.InvalidRequest(str(fault.detail), code="invalid_json")
        case drf.NotAuthenticated():
            return errors.Unauthorized(
                "This needs an API key: send 'Authorization: Bearer nok_…'. "
                "`.venv/bin/python manage.py keys create` makes one."
            )
        case drf.AuthenticationFailed():
            return errors.Unauthorized(str(fault.detail))
        case drf.PermissionDenied():
            return errors.Forbidden(str(fault.detail))
        case drf.MethodNotAllowed():
            return errors.MethodNotAllowed(f"{fault.detail} The Allow header names what this path takes.")
        case drf.NotAcceptable():
            return NotAcceptable("The answer is JSON: accept application/json.")
        case drf.UnsupportedMediaType():
            return UnsupportedMediaType("Send JSON, with 'Content-Type: application/json'.")
        case drf.Throttled():
            wait: float | None = getattr(fault, "wait", None)
            return RateLimited("Too many requests; wait a moment.", retry_after=math.ceil(wait or 1))
        case drf.NotFound() | Http404():
            return errors.NotFound("There is nothing by this name.")
        case core.PermissionDenied():
            return errors.Forbidden(str(fault) or "You may not do that.")
        case core.RequestDataTooBig():
            return body_too_large()
        case core.DisallowedHost():
            return _disallowed_host()
        case core.BadRequest() | core.SuspiciousOperation():
            return errors.InvalidRequest("The request can't be understood.")
    return None


def body_too_large() -> errors.BodyTooLarge:
    limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    return errors.BodyTooLarge(f"The body is larger than {limit // 1024} KiB, the most that is read here.")


def _disallowed_host() -> ApiError:
    names = ", ".join(dict.fromkeys(settings.ALLOWED_HOSTS))
    return errors.InvalidRequest(
        f"Without API keys this server answers under its loopback names only ({names}). To use another name, set "
        "NOPENAI_REQUIRE_API_KEY=1.",
        code="host_not_allowed",
    )


def _validation_error(fault: drf.ValidationError) -> ApiError:
    """All faults in one message, the first of them as ``param``."""
    faults = list(_faults(fault.detail))
    message = " ".join(f"'{param}': {text}" if param else text for param, text in faults)
    return errors.InvalidRequest(message, param=faults[0][0] if faults else None)


def _faults(detail: Any, path: str = "") -> Iterator[Fault]:
    """DRF's nested lists and dicts of messages, flattened: ``{"a": [{}, {"b": ["wrong"]}]}`` → ``a[1].b: wrong``."""
    if isinstance(detail, Mapping):
        for name, inner in detail.items():
            yield from _faults(inner, _below(path, name))
    elif isinstance(detail, Sequence) and not isinstance(detail, str):
        for position, inner in enumerate(detail):
            yield from _faults(inner, f"{path}[{position}]" if isinstance(inner, Mapping) else path)
    else:
        yield path or None, str(detail)


def _below(path: str, name: Any) -> str:
    if name == "non_field_errors":
        return path
    if isinstance(name, int):
        return f"{path}[{name}]"
    return f"{path}.{name}" if path else str(name)
