"""Asks a backend how it is, by ``GET /models``: that costs nobody a token. All I/O of it; nothing is written down here.

What answers at all is alive: some backends have no such path. That it refuses our key, or leads elsewhere, is told;
that it does not know its model, too, but some list only a part of theirs.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from registry.backends.addresses import AddressRefused, Policy
from registry.backends.client import open_session, refused_address
from registry.backends.values import Backend
from registry.catalogue import Health

PROBE_SECONDS = 5.0
_MOST_BYTES = 4 * 1024 * 1024
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Probed:
    health: Health
    reason: str = ""
    """In words for an operator, without its key."""


def probe_all(backends: Sequence[Backend], policy: Policy) -> list[Probed]:
    """In their order."""
    return asyncio.run(_probe_all(backends, policy))


async def _probe_all(backends: Sequence[Backend], policy: Policy) -> list[Probed]:
    turns = asyncio.Semaphore(_AT_ONCE)

    async def in_turn(backend: Backend) -> Probed:
        async with turns:
            return await probe(backend, policy)

    return list(await asyncio.gather(*(in_turn(backend) for backend in backends)))


async def probe(backend: Backend, policy: Policy) -> Probed:
    if backend.fault:
        return Probed(Health.UNHEALTHY, backend.fault)
    try:
        async with (
            asyncio.timeout(PROBE_SECONDS),
            open_session(backend, policy) as session,
            session.get(f"{backend.url}/models", allow_redirects=False) as response,
        ):
            return _judged(backend, response.status, await _beginning(response))
    except (aiohttp.ClientError, OSError) as fault:  # among them TimeoutError
        return Probed(Health.UNHEALTHY, _words(fault, backend))


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > _MOST_BYTES:
            break
    return bytes(body)


def _judged(backend: Backend, status: int, body: bytes) -> Probed:
    if status in (401, 403):
        return Probed(Health.UNHEALTHY, f"its backend does not take our API key (status {status})")
    if 300 <= status < 400:
        return Probed(Health.UNHEALTHY, f"its backend answers with a redirect (status {status}), which is not followed")
    if status >= 500:
        return Probed(Health.UNHEALTHY, f"its backend fails (status {status})")
    if status == 200 and backend.model not in (listed := _listed(body)) and listed:
        return Probed(Health.DEGRADED, f"its backend does not list '{backend.model}'")
    return Probed(Health.HEALTHY)


def _listed(body: bytes) -> set[str]:
    """Ids; nothing where it is no such list."""
    try:
        raw: Any = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return set()
    rows = raw.get("data") if isinstance(raw, dict) else None
    return {str(row.get("id")) for row in rows if isinstance(row, dict)} if isinstance(rows, list) else set()


def _words(fault: Exception, backend: Backend) -> str:
    refused: AddressRefused | None = refused_address(fault)
    if refused is not None:
        return f"its backend may not be asked: {refused}"
    if isinstance(fault, TimeoutError):
        return f"its backend does not answer within {PROBE_SECONDS:.0f} s"
    words = str(fault) or type(fault).__name__
    return f"its backend can't be reached: {words.replace(backend.api_key, '…') if backend.api_key else words}"
