"""How the web process asks a gateway on an operator's behalf: with a ticket, signed with the installation's key. Pure.

Gateways know no sessions. The web process has checked who is signed in, and writes a ticket for the one request that it
makes; some seconds later it is worth nothing.
"""

import base64
import hashlib
import hmac

import msgspec

TICKET_PREFIX = "nok_ticket_"
"""Begins as API keys do: logs and URLs treat it as one."""

TICKET_SECONDS = 30.0

_SIGNATURE_LENGTH = 43


class _Ticket(msgspec.Struct, frozen=True):
    holder: str
    expires_at: float


def ticket_make(holder: str, key: bytes, now: float) -> str:
    """
    Args:
        holder: the signed-in user's name.
        key: the installation's.
        now: seconds since the epoch.
    """
    content = msgspec.json.encode(_Ticket(holder, now + TICKET_SECONDS))
    return TICKET_PREFIX + _written(_signature(content, key)) + _written(content)


def ticket_holder(ticket: str, key: bytes, now: float) -> str | None:
    """Whose it is. None: it is no ticket of this installation's, or is over."""
    signed = ticket.removeprefix(TICKET_PREFIX)
    signature, content = signed[:_SIGNATURE_LENGTH], signed[_SIGNATURE_LENGTH:]
    try:
        known = hmac.compare_digest(_read(signature), _signature(_read(content), key))
        read = msgspec.json.decode(_read(content), type=_Ticket) if known else None
    except (ValueError, msgspec.MsgspecError):
        return None
    return read.holder if read is not None and now < read.expires_at else None


def _signature(content: bytes, key: bytes) -> bytes:
    return hmac.digest(key, b"nopenai ticket\0" + content, hashlib.sha256)


def _written(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _read(text: str) -> bytes:
    """Raises ValueError (:class:`binascii.Error` is one)."""
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
