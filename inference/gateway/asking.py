"""What a request is routed by, of all that it brings."""

import time

from inference.gateway.auth import allowed_of
from inference.gateway.call import Call
from inference.gateway.estimates import least_context
from inference.gateway.origin import Origin
from inference.gateway.parse import InferenceRequest
from quotas.callers import Caller
from registry.errors import InvalidRequest
from routing.ask import Ask
from routing.table import RouteTable

_LONGEST_SESSION = 256


def ask_of(call: Call, request: InferenceRequest, caller: Caller | None, origin: Origin, table: RouteTable) -> Ask:
    """Raises InvalidRequest: its session's name is too long."""
    return Ask(
        model=request.model,
        kind=request.kind,
        capabilities=request.capabilities,
        allowed=allowed_of(caller),
        session=_session(call, origin.tenant),
        key="" if caller is None else caller.prefix,
        links=origin.prefixes,
        tokens=least_context(request) if table.contexts_differ else 0,
        now=time.monotonic(),
    )


def _session(call: Call, tenant: str) -> str:
    """Of one tenant, whatever others call theirs. Empty: the client names none."""
    raw = call.headers.get(b"x-session-id")
    if not raw:
        return ""
    if len(raw) > _LONGEST_SESSION:
        raise InvalidRequest(
            f"The X-Session-ID has {len(raw)} bytes, and {_LONGEST_SESSION} are allowed: send a shorter one.",
            param="X-Session-ID",
        )
    return f"{tenant}/{raw.decode('latin-1')}"
