"""What is put right about a request before Django sees it, and what its log lines carry."""

import io
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from django.http import HttpRequest, HttpResponse
from structlog.contextvars import bound_contextvars


def with_known_length(application: WSGIApplication, *, limit_bytes: int) -> WSGIApplication:
    """Read a body of unknown length (chunked) before the application starts: Django takes it for an empty one.

    One byte more than the limit is kept, so that a body that is too large is refused as such and not cut.
    """

    def counted(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if "CONTENT_LENGTH" not in environ and environ.get("HTTP_TRANSFER_ENCODING", "").lower() == "chunked":
            body = environ["wsgi.input"].read(limit_bytes + 1)
            environ |= {"CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
        return application(environ, start_response)

    return counted


class RequestIdMiddleware:
    """Every log line of a request carries the id that the gateway gave it."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        fields: dict[str, Any] = {}
        if request_id := request.headers.get("X-Request-ID"):
            fields["request_id"] = request_id
        with bound_contextvars(**fields):
            return self._get_response(request)
