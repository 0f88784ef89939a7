"""Tells the gateway which revision a write led to, so that its client can read what it wrote."""

from collections.abc import Callable
from contextlib import suppress

from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse

from registry import selectors
from registry.catalogue import REVISION_HEADER

_READS = ("GET", "HEAD", "OPTIONS", "TRACE")


class RevisionMiddleware:
    """Every successful write answers with the revision that holds it. The gateway passes such an answer on once its
    snapshot is as new.

    Views commit before they return (no ATOMIC_REQUESTS), so what is read here includes their writes.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self._get_response(request)
        if request.method in _READS or response.status_code >= 400:
            return response
        # The write has been done; not knowing its revision must not turn it into an error.
        with suppress(DatabaseError, InterfaceError):
            response[REVISION_HEADER] = str(selectors.revision_read())
        return response
