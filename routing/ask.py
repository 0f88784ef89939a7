"""What a request brings to be routed by."""

import msgspec

from registry.catalogue import ALL, Allowed

NO_CAPABILITIES: frozenset[str] = frozenset()


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    model: str | None = None
    """``<id>``, ``<id>@<version>``, a route's name such as ``auto``, or None for the default."""
    kind: str = "chat"
    """The capability that the endpoint needs: ``chat``, ``completion``, ``embedding``."""
    capabilities: frozenset[str] = NO_CAPABILITIES
    """What the client demands beside it."""
    allowed: Allowed = ALL
    """What the client may ask for."""
    session: str = ""
    """Of the client's conversation. Empty: it has none."""
    key: str = ""
    """Whose API key it is. Empty: it came without."""
    links: tuple[bytes, ...] = ()
    """The names of the prompt's beginnings, the shortest first (:mod:`inference.prefixes`)."""
    tokens: int = 0
    """That the prompt and its answer need at least, as far as can be told without a tokenizer."""
    now: float = 0.0
    """Seconds, of a clock that does not go back."""
