"""Who calls, as plain frozen values: the quotas' part of the gateway's snapshot. No Django, no clock here."""

import hashlib
import re
import secrets
from enum import StrEnum

import msgspec

from quotas.ledger import Account
from quotas.limits import PermitLimit
from registry.catalogue import ALL, Allowed

SECRET_PREFIX = "nok_"
"""Makes a leaked key recognisable to people and to secret scanners."""

_SHOWN_LENGTH = len(SECRET_PREFIX) + 8
"""Of 43 random characters 8 are kept to recognise a key by; 210 secret bits remain."""

DEFAULT_PRIORITY = 5
HIGHEST_PRIORITY = 10
"""Of requests."""

_SECRET = re.compile(SECRET_PREFIX + r"[A-Za-z0-9_-]{16,}")
"""Shorter ones are what is shown of keys."""

PARTITION_PATTERN = r"\A[0-9a-f]{32}\Z"


class Role(StrEnum):
    """What a caller may do; each role includes those before it."""

    INFERENCE = "inference"
    OPERATOR = "operator"
    ADMIN = "admin"

    def includes(self, needed: "Role") -> bool:
        ranks = list(Role)
        return ranks.index(self) >= ranks.index(needed)


class CachePartition(msgspec.Struct, frozen=True, kw_only=True):
    """Whose cached blocks are seen and left behind: nothing is shared across partitions."""

    name: str
    """Random, a folder's name on disk: it tells nothing about its tenant, and never comes again once it was erased."""
    key: bytes
    """32 random bytes: encrypts the blocks on disk. Never logged (:meth:`__repr__`), never in an answer."""

    def __repr__(self) -> str:
        return f"CachePartition(name={self.name!r})"


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """An API key that was not revoked, and what it and its tenant are held to."""

    key_pk: int
    tenant: str
    role: Role
    prefix: str
    """How the key begins. The only part of it that may be shown or logged."""
    expires_at: float | None
    """Seconds since the epoch. Whoever looks a caller up compares it with the time: a snapshot outlives the moment."""
    partition: CachePartition | None = None
    """The tenant's. None: its key can't be opened here, so nothing of its requests may be cached."""
    accounts: tuple[Account, ...] = ()
    """The windows of the key's own limits and of its tenant's."""
    permits: tuple[PermitLimit, ...] = ()
    """Their limits on concurrent requests."""
    max_priority: int = DEFAULT_PRIORITY
    """What its requests ask for beyond is cut to this."""
    weight: float = 1.0
    """The tenant's share where tenants take turns, beside the others'."""
    allowed: Allowed = ALL

    def expired(self, now: float) -> bool:
        return self.expires_at is not None and self.expires_at <= now


def secret_make() -> str:
    """A new secret: the prefix and 256 random bits, URL-safe."""
    return SECRET_PREFIX + secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """What is stored and looked up instead of the secret: its SHA-256 in hex. Random 256 bits need no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


def prefix(secret: str) -> str:
    return secret[:_SHOWN_LENGTH]


def secret_within(text: str) -> str:
    """How the first key begins that a text holds; empty: it holds none."""
    found = _SECRET.search(text) if SECRET_PREFIX in text else None
    return prefix(found[0]) if found else ""


def secrets_cut(text: str) -> str:
    """The text with only the beginnings of keys that it holds."""
    return _SECRET.sub(lambda found: f"{prefix(found[0])}…", text) if SECRET_PREFIX in text else text
