"""Which addresses a backend may have. Pure.

Whoever may register a URL must not be able to have this server ask what only this server can reach: its own sockets,
its neighbours, the cloud's metadata. So only addresses of the Internet are allowed, and those of networks that the
installation names. What is not encrypted stays in those: prompts and keys would cross the Internet in the clear.
"""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

SETTING = "NOPENAI_REMOTE_NETWORKS"

_NAT64 = IPv6Network("64:ff9b::/96")


class AddressRefused(OSError):
    """What a backend's name leads to may not be connected to. ``str()`` is for an operator."""


class Policy:
    """Of one installation."""

    def __init__(self, networks: Sequence[Network] = ()) -> None:
        """``networks``: private ones that are allowed."""
        self._networks = tuple(networks)

    def why_not(self, host: str, *, encrypted: bool) -> str:
        """Why an address, as text, may not be connected to; empty: it may. ``encrypted``: by TLS."""
        try:
            address = _within(ip_address(host.partition("%")[0]))
        except ValueError:
            return f"{host} is no address"
        if any(address.version == network.version and address in network for network in self._networks):
            return ""
        if not address.is_global or address.is_multicast:
            return f"{address} is a private address, and {SETTING} names no network that holds it"
        if not encrypted:
            return f"{address} is on the Internet: use https, so that nobody on the way reads prompts and keys"
        return ""

    def require(self, hosts: Iterable[str], *, encrypted: bool) -> None:
        """All of them may be connected to: of a name that leads to good and bad ones none is trusted.

        Raises:
            AddressRefused: for the first that may not.
        """
        for host in hosts:
            if why := self.why_not(host, encrypted=encrypted):
                raise AddressRefused(why)

    def why_not_url(self, url: str) -> str:
        """Why a URL can't be a backend's as it stands, with what to do; empty: it can, as far as no name tells."""
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError as fault:
            return f"is no URL: {fault}"
        if parts.scheme not in ("http", "https") or not host:
            return "must begin with https:// or http:// and a host"
        if parts.username is not None or parts.password is not None:
            return "must not hold a name or password: give the key as api_key, which is kept encrypted"
        if parts.query or parts.fragment or "?" in url or "#" in url:
            return "must end with its path, such as /v1: no query and no fragment"
        if not url.isascii() or not url.isprintable() or " " in url:
            return "must hold no white space and nothing but ASCII"
        if not _is_literal(host):
            return ""
        why = self.why_not(host, encrypted=parts.scheme == "https")
        return f"leads where no backend may be: {why}" if why else ""


def _within(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, if it does: that is where packets go."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _is_literal(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
