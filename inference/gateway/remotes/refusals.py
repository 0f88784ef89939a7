"""A backend's errors → what our client is told, and what our operator. Pure.

What is the client's own fault (a field, a prompt that is too long) it is told in the backend's words. All else is the
server's affair: the client hears that the backend failed, the log what it said. Its key is in neither.

    400, 413, 422     400, in its words           the request would fail elsewhere, too
    401, 403          503 backend_unauthorized    its key is not taken: an operator renews it
    3xx, 404–5, 501   503 backend_misconfigured   its URL, its model's name or its capabilities are wrong
    429               429 rate_limited            with its Retry-After
    502, 503, 504     503 backend_unavailable     likewise
    all others        500 backend_failed
"""

from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from inference.protocol import Failed
from registry.errors import ContextLengthExceeded

UNAUTHORIZED = "backend_unauthorized"
MISCONFIGURED = "backend_misconfigured"
UNAVAILABLE = "backend_unavailable"
FAILED = "backend_failed"
RATE_LIMITED = "rate_limited"

_MOST_WORDS = 500
"""Characters of what a backend says."""
_LONGEST_PAUSE = 24 * 3600
_USUAL_PAUSE = 5

_TOO_LONG_WORDS = ("maximum context length", "context length", "context size", "context window")


class Refusal(msgspec.Struct, frozen=True):
    failed: Failed
    said: str
    """By the backend, for the log."""


def refusal_of(
    request_id: int, model: str, status: int, headers: Mapping[str, str], body: bytes, *, secret: str, now: float
) -> Refusal:
    """
    Args:
        model: ours.
        headers: whatever the case of their names.
        now: seconds since the epoch.
    """
    words, code, param = _said(body, secret)
    pause = pause_of(headers.get("Retry-After"), now)
    client, our_code, message = _answer(model, status, words)
    if client == 400 and _is_too_long(code, words):
        our_code = ContextLengthExceeded.default_code or ""
    failed = Failed(
        id=request_id,
        status=client,
        code=our_code,
        message=message,
        param=param if client == 400 else None,
        retry_after=None if client in (400, 500) else pause or _USUAL_PAUSE,
    )
    return Refusal(failed, f"status {status}: {words}" if words else f"status {status}")


def broken(request_id: int, model: str, said: bytes, *, secret: str) -> Refusal:
    """It failed within its answer."""
    words, _, _ = _said(said, secret)
    message = f"The backend of the model '{model}' failed within its answer. Ask again."
    return Refusal(Failed(id=request_id, status=500, code=FAILED, message=message), words or "nothing more")


def garbled(request_id: int, model: str, what: str) -> Refusal:
    message = (
        f"The backend of the model '{model}' answered with what is not OpenAI's API. An operator finds it in the log."
    )
    return Refusal(Failed(id=request_id, status=500, code=FAILED, message=message), f"it sent {what[:_MOST_WORDS]}")


def misconfigured(request_id: int, model: str, why: str) -> Refusal:
    message = f"The backend of the model '{model}' can't be asked: an operator has to put its settings right."
    failed = Failed(id=request_id, status=503, code=MISCONFIGURED, message=message, retry_after=30)
    return Refusal(failed, why)


def silent(request_id: int, model: str, seconds: float) -> Refusal:
    message = f"The backend of the model '{model}' has said nothing for {seconds:g} s. Try again."
    failed = Failed(id=request_id, status=503, code=UNAVAILABLE, message=message, retry_after=_USUAL_PAUSE)
    return Refusal(failed, f"silent for {seconds:g} s")


def pause_of(raw: str | None, now: float) -> int | None:
    """Whole seconds that a Retry-After asks for, be they written as a number or as a date; at least one."""
    if raw is None:
        return None
    try:
        seconds = float(raw)
    except ValueError:
        try:
            date = parsedate_to_datetime(raw)
        except ValueError:
            return None
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
    if seconds != seconds:  # "nan" is a float, too
        return None
    return round(min(_LONGEST_PAUSE, max(1.0, seconds)))


def _answer(model: str, status: int, words: str) -> tuple[int, str, str]:
    """Status, code and message for the client."""
    named = f"The backend of the model '{model}'"
    if status in (400, 413, 422):
        return 400, "", f"{named} does not take this request: {words or 'it does not say why'}"
    if status in (401, 403):
        return 503, UNAUTHORIZED, f"{named} does not take our API key: an operator has to renew it."
    if status in (404, 405, 501) or 300 <= status < 400:
        return 503, MISCONFIGURED, f"{named} is not what it should be: an operator has to put its settings right."
    if status == 429:
        return 429, RATE_LIMITED, f"{named} has too much to do. Try again later."
    if status in (502, 503, 504, 529):
        return 503, UNAVAILABLE, f"{named} can't answer now. Try again later."
    return 500, FAILED, f"{named} failed. Try again."


def _said(body: bytes, secret: str) -> tuple[str, str, str | None]:
    """Its message, code and param, as far as they are there; what is no JSON is its own message."""
    try:
        raw: Any = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return _cleaned(body.decode("utf-8", "replace"), secret), "", None
    found = raw.get("error", raw) if isinstance(raw, dict) else raw
    if not isinstance(found, dict):
        return _cleaned(str(found), secret), "", None
    message = found.get("message", found.get("detail", ""))
    code, param = found.get("code") or found.get("type"), found.get("param")
    return (
        _cleaned(message if isinstance(message, str) else str(message), secret),
        code if isinstance(code, str) else "",
        _cleaned(param, secret) if isinstance(param, str) else None,
    )


def _cleaned(text: str, secret: str) -> str:
    """One line, of bounded length, that holds no key of ours: backends repeat what they do not take."""
    if secret:
        text = text.replace(secret, "…")
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= _MOST_WORDS else f"{line[:_MOST_WORDS]}…"


def _is_too_long(code: str, words: str) -> bool:
    lowered = words.lower()
    return code in ("context_length_exceeded", "exceed_context_size_error") or any(
        each in lowered for each in _TOO_LONG_WORDS
    )
