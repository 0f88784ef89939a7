"""What is put right about a request before Django sees it, and what its log lines carry."""

import io
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from structlog.contextvars import bound_contextvars

_PIECE_BYTES = 64 * 1024


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


def with_body_taken(application: WSGIApplication, *, limit_bytes: int) -> WSGIApplication:
    """Take what is left of a body once the answer is known, within a limit: who refuses a request has often not read
    it, and closing a socket with unread data resets the connection, so that its sender never gets the answer.

    The gateway sends bodies that it has in full, so this waits for nobody.
    """

    def taken(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body, left = environ["wsgi.input"], limit_bytes
        answer = application(environ, start_response)
        while left > 0 and (piece := body.read(min(left, _PIECE_BYTES))):
            left -= len(piece)
        return answer

    return taken


def with_request_id(application: WSGIApplication) -> WSGIApplication:
    """Every log line of a request carries the id that the gateway gave it.

    Around Django as a whole and no middleware of it: what Django itself says of an answer it says after them.
    """

    def identified(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request_id = environ.get("HTTP_X_REQUEST_ID")
        with bound_contextvars(**({"request_id": request_id} if request_id else {})):
            return application(environ, start_response)

    return identified
