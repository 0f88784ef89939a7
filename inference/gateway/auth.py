"""API key → caller, from the snapshot. Keys are looked up by their digest; they are never logged, nor shown."""

from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from inference.gateway.asgi import Headers
from quotas.callers import SECRET_PREFIX, Caller, Role, digest, secret_within
from registry.catalogue import ALL, Allowed
from registry.errors import Forbidden, InvalidRequest, Unauthorized


def authenticate(headers: Headers, callers: Mapping[str, Caller], *, required: bool, now: float) -> Caller | None:
    """Who calls. Where keys are not required (a server on a loopback address) an unknown key counts as none: OpenAI's
    clients can't do without sending one, and what they send there is anything.

    Raises:
        Unauthorized: keys are required and there is no valid one.
    """
    secret = bearer(headers)
    if secret is None:
        if required:
            raise Unauthorized("This server takes an API key: send it as 'Authorization: Bearer nok_…'.")
        return None
    caller = callers.get(digest(secret))
    if caller is not None and not caller.expired(now):
        return caller
    if not required:
        return None
    raise Unauthorized(
        "The API key is not known here: check that it is complete and was not revoked."
        if caller is None
        else f"The API key that begins with {caller.prefix} has expired."
    )


def refuse_key_in_url(path: str, query: bytes) -> None:
    """
    Raises:
        InvalidRequest: there is an API key in it, where proxies, browsers and logs keep it.
    """
    if SECRET_PREFIX in path or query:  # in which any of its characters may be written as %XX
        prefix = secret_within(f"{path}?{unquote_to_bytes(query).decode('latin-1')}")
        if prefix:
            raise InvalidRequest(
                f"There is an API key in this URL ({prefix}…). URLs end up in logs and histories: send it as "
                "'Authorization: Bearer nok_…', and rotate this key, which must be taken as known to others.",
                code="key_in_url",
            )


def allowed_of(caller: Caller | None) -> Allowed:
    """What a caller may ask for. Who needs no key may ask for all."""
    return ALL if caller is None else caller.allowed


def require_role(caller: Caller | None, needed: Role) -> None:
    """Who needs no key is an operator, as for the web process.

    Raises:
        Forbidden: the key's role is less.
    """
    if caller is not None and not caller.role.includes(needed):
        raise Forbidden(
            f"This needs the role '{needed}'; the key that begins with {caller.prefix} has '{caller.role}'."
        )


def bearer(headers: Headers) -> str | None:
    """The token of ``Authorization: Bearer``, whose scheme is case-insensitive."""
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    token = token.strip()
    # Latin-1 can't fail; a key with other than ASCII is simply not known.
    return token.decode("latin-1") if token and scheme.lower() == b"bearer" else None
