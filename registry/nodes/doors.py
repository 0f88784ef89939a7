"""Where a node can be reached by others. Pure."""

from urllib.parse import urlsplit

import msgspec


class Address(msgspec.Struct, frozen=True):
    """Of a node's door."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address(text: str) -> Address:
    """``host:port``, an IPv6 address in brackets.

    Raises:
        ValueError: saying what to write instead.
    """
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.netloc != text or parts.username is not None:
        raise ValueError("use host:port, as other nodes reach it, such as 10.0.0.5:8090")
    return Address(host, port)
