"""Connections to backends: to checked addresses only, and nowhere that an answer points to.

A name is resolved here, every address that it has is checked, and one of those is connected to: nobody resolves the
name a second time. The last check is made of the address that a socket is opened for, whichever way it came there.
"""

import socket
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from registry.backends.addresses import AddressRefused, Policy
from registry.backends.values import Backend

CONNECT_SECONDS = 5.0


def open_session(
    backend: Backend,
    policy: Policy,
    *,
    connect_seconds: float = CONNECT_SECONDS,
    resolver: AbstractResolver | None = None,
) -> aiohttp.ClientSession:
    """For requests to one backend, with its key. How long an answer may take is the asker's to say.

    Args:
        resolver: finds a name's addresses; the system's if None.
    """
    encrypted = URL(backend.url).scheme == "https"

    def checked_socket(info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, where = info
        policy.require([where[0]], encrypted=encrypted)
        return socket.socket(family, kind, protocol)

    connector = aiohttp.TCPConnector(
        resolver=_CheckedResolver(policy, resolver or aiohttp.ThreadedResolver(), encrypted=encrypted),
        socket_factory=checked_socket,
        limit=0,
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Authorization": f"Bearer {backend.api_key}"} if backend.api_key else {},
        timeout=aiohttp.ClientTimeout(total=None, connect=2 * connect_seconds, sock_connect=connect_seconds),
        trust_env=False,
    )


def refused_address(fault: BaseException) -> AddressRefused | None:
    """Whether that is why there is no connection. aiohttp wraps what the resolver and the socket's maker raise."""
    cause: BaseException | None = fault
    while cause is not None:
        if isinstance(cause, AddressRefused):
            return cause
        cause = cause.__cause__ or getattr(cause, "os_error", None)
    return None


class _CheckedResolver(AbstractResolver):
    def __init__(self, policy: Policy, resolver: AbstractResolver, *, encrypted: bool) -> None:
        self._policy = policy
        self._resolver = resolver
        self._encrypted = encrypted

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        self._policy.require((each["host"] for each in found), encrypted=self._encrypted)
        return found

    async def close(self) -> None:
        await self._resolver.close()
