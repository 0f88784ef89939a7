"""What can go wrong, as both planes tell it to a client.

    ApiError
    ├── InvalidRequest          400  the request itself is wrong; ``param`` names the field
    │   └── ContextLengthExceeded
    ├── Unauthorized            401
    ├── Forbidden               403
    ├── NotFound                404
    │   └── ModelNotFound
    ├── MethodNotAllowed        405
    ├── Conflict                409
    ├── BodyTooLarge            413
    ├── QuotaExceeded           429  a limit is reached; ``retry_after`` seconds later it begins anew
    ├── ServerError             500  a fault of ours, which the log tells in full
    └── Unavailable             503  try again after ``retry_after`` seconds

The gateway and DRF's exception handler turn each of them into OpenAI's shape with :func:`payload`; nothing else
decides how an error looks.
"""

from typing import ClassVar


class ApiError(Exception):
    """An answer other than success. The message says what to do."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.default_code
        self.retry_after = retry_after

    def payload(self) -> dict[str, dict[str, str | None]]:
        return payload(self.message, type=self.type, param=self.param, code=self.code)


def payload(
    message: str, *, type: str, param: str | None = None, code: str | None = None
) -> dict[str, dict[str, str | None]]:
    """OpenAI's error body."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


class InvalidRequest(ApiError):
    status = 400
    type = "invalid_request_error"


class ContextLengthExceeded(InvalidRequest):
    default_code = "context_length_exceeded"


class Unauthorized(ApiError):
    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"


class Forbidden(ApiError):
    status = 403
    type = "permission_error"
    default_code = "permission_denied"


class NotFound(ApiError):
    status = 404
    type = "invalid_request_error"
    default_code = "not_found"


class ModelNotFound(NotFound):
    default_code = "model_not_found"


class MethodNotAllowed(ApiError):
    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"


class Conflict(ApiError):
    status = 409
    type = "invalid_request_error"
    default_code = "conflict"


class BodyTooLarge(ApiError):
    status = 413
    type = "invalid_request_error"
    default_code = "body_too_large"


class QuotaExceeded(ApiError):
    status = 429
    type = "rate_limit_error"
    default_code = "quota_exceeded"


class ServerError(ApiError):
    default_code = "internal_error"


class Unavailable(ApiError):
    """``code`` says what is missing: a model that can answer, a worker, the database, the server itself."""

    status = 503
    type = "server_error"
    default_code = "no_healthy_model"


def first_line(fault: Exception) -> str:
    """What PostgreSQL, Redis or the system says is wrong, without the advice that follows it."""
    return str(fault).strip().partition("\n")[0] or type(fault).__name__
