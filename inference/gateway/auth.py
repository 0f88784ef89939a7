"""API key → caller, from the snapshot. Keys are looked up by their digest; they are never logged, nor shown."""

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import unquote_to_bytes, urlsplit

from inference.gateway.asgi import Headers
from quotas.callers import SECRET_PREFIX, Caller, Role, digest, secret_within
from registry.catalogue import ALL, Allowed
from registry.errors import Forbidden, InvalidRequest, Unauthorized
from registry.tickets import TICKET_PREFIX, ticket_holder


def authenticate(headers: Headers, callers: Mapping[str, Caller], *, required: bool, now: float) -> Caller | None:
    """Who calls. Where keys are not required (a server on a loopback address) an unknown key counts as none: OpenAI's
    clients can't do without sending one, and what they send there is anything.

    Raises:
        Unauthorized: keys are required and there is no valid one.
        Forbidden: keys are not required, and there is none; a page of another server's makes a browser ask.
    """
    secret = bearer(headers)
    if secret is None:
        if required:
            raise Unauthorized("This server takes an API key: send it as 'Authorization: Bearer nok_…'.")
        _refuse_other_pages(headers)
        return None
    caller = callers.get(digest(secret))
    if caller is not None and not caller.expired(now):
        return caller
    if not required:
        _refuse_other_pages(headers)
        return None
    raise Unauthorized(
        "The API key is not known here: check that it is complete and was not revoked."
        if caller is None
        else f"The API key that begins with {caller.prefix} has expired."
    )


def ticket_operator(headers: Headers, key: bytes, now: float) -> Caller | None:
    """Who is signed in and asks through the web process: an operator. None: it brings no ticket that is good."""
    secret = bearer(headers)
    if secret is None or not secret.startswith(TICKET_PREFIX):
        return None
    holder = ticket_holder(secret, key, now)
    if holder is None:
        return None
    return Caller(key_pk=0, tenant="", role=Role.OPERATOR, prefix=holder, expires_at=None)


def _refuse_other_pages(headers: Headers) -> None:
    """Any web page may have the browser of who runs this server send requests to a loopback address: to use its models,
    if not to read their answers; and to read these, too, once the page's own name points here. Browsers say whose page
    it is with every POST, and by which name they came with every request.

    Raises:
        Forbidden: it is no page of ours, or that name is none of this machine's own.
    """
    host, origin = headers.get(b"host", b""), headers.get(b"origin")
    if host and not _is_loopback(host):
        raise Forbidden(
            "Without an API key this server answers by its loopback names alone, such as localhost, not by "
            f"'{host[:200].decode('latin-1')}'."
        )
    if origin is not None and origin.partition(b"://")[2] != host:
        page = origin[:200].decode("latin-1")
        raise Forbidden(f"A page of {page} may not use this server without an API key.")


@lru_cache(maxsize=256)
def _is_loopback(host: bytes) -> bool:
    """With or without a port."""
    try:
        name = urlsplit(b"//" + host).hostname or b""
        return name == b"localhost" or ip_address(name.decode("latin-1")).is_loopback
    except ValueError:  # neither that nor an address
        return False


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
