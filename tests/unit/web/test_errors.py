"""What each exception means to a client."""

import pytest
from django.core import exceptions as core
from django.db import InterfaceError, OperationalError, ProgrammingError
from django.http import Http404
from rest_framework import exceptions as drf

from nopenai_site.errors import as_api_error
from registry import errors


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (errors.ModelNotFound("No."), 404, "model_not_found"),
        (OperationalError("gone"), 503, "database_unavailable"),
        (InterfaceError("closed"), 503, "database_unavailable"),
        (drf.ValidationError({"a": ["Wrong."]}), 400, None),
        (drf.ParseError("Not JSON."), 400, "invalid_json"),
        (drf.NotAuthenticated(), 401, "invalid_api_key"),
        (drf.AuthenticationFailed("No."), 401, "invalid_api_key"),
        (drf.PermissionDenied("No."), 403, "permission_denied"),
        (drf.NotFound(), 404, "not_found"),
        (drf.MethodNotAllowed("PUT"), 405, "method_not_allowed"),
        (drf.NotAcceptable(), 406, "not_acceptable"),
        (drf.UnsupportedMediaType("text/plain"), 415, "unsupported_media_type"),
        (drf.Throttled(wait=1.2), 429, "rate_limited"),
        (Http404(), 404, "not_found"),
        (core.PermissionDenied(), 403, "permission_denied"),
        (core.RequestDataTooBig(), 413, "body_too_large"),
        (core.DisallowedHost(), 400, "host_not_allowed"),
        (core.SuspiciousOperation(), 400, None),
    ],
)
def test_every_known_exception_has_its_status_and_code(fault: Exception, status: int, code: str | None) -> None:
    error = as_api_error(fault)
    assert error is not None
    assert (error.status, error.code) == (status, code)


@pytest.mark.parametrize("fault", [ValueError("ours"), ProgrammingError("ours"), None])
def test_a_mistake_of_ours_is_not_dressed_up(fault: Exception | None) -> None:
    assert as_api_error(fault) is None


def test_what_comes_back_soon_says_when() -> None:
    away, throttled = as_api_error(OperationalError()), as_api_error(drf.Throttled(wait=1.2))
    assert away is not None
    assert throttled is not None
    assert (away.retry_after, throttled.retry_after) == (2, 2)


@pytest.mark.parametrize(
    ("detail", "param", "told"),
    [
        ({"a": ["Wrong."]}, "a", "'a': Wrong."),
        ({"a": ["One.", "Two."], "b": ["Three."]}, "a", "'a': One. 'a': Two. 'b': Three."),
        ({"a": {"b": ["Wrong."]}}, "a.b", "'a.b': Wrong."),
        ({"a": [{}, {"b": ["Wrong."]}]}, "a[1].b", "'a[1].b': Wrong."),
        ({"a": {1: ["Wrong."]}}, "a[1]", "'a[1]': Wrong."),
        ({"non_field_errors": ["Wrong."]}, None, "Wrong."),
        (["Wrong."], None, "Wrong."),
    ],
)
def test_a_validation_error_names_every_field_and_the_first_as_param(
    detail: object, param: str | None, told: str
) -> None:
    error = as_api_error(drf.ValidationError(detail))  # type: ignore[arg-type]
    assert error is not None
    assert (error.param, error.message) == (param, told)
