"""Whether a process does its work, asked from outside."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_PATIENCE_SECONDS = 2.0

Question = Callable[[], Coroutine[Any, Any, bool]]


def accepts(path: Path) -> Question:
    """Somebody accepts connections on a Unix socket."""

    async def ready() -> bool:
        try:
            _, writer = await asyncio.wait_for(asyncio.open_unix_connection(str(path)), _PATIENCE_SECONDS)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True

    return ready


def answers(url: str) -> Question:
    """A GET is answered with 200."""

    async def ready() -> bool:
        try:
            status, _ = await asyncio.wait_for(get(url), _PATIENCE_SECONDS)
        except (OSError, TimeoutError, ValueError):
            return False
        return status == 200

    return ready


async def shortcomings(base: str, patience_seconds: float) -> list[str]:
    """What ``/health`` has to say against the server after ``patience_seconds``; nothing, as soon as it is well."""
    deadline = asyncio.get_running_loop().time() + patience_seconds
    while True:
        try:
            _, body = await asyncio.wait_for(get(f"{base}/health"), _PATIENCE_SECONDS)
            reasons = [str(reason) for reason in json.loads(body).get("reasons", [])]
        except (OSError, TimeoutError, ValueError) as fault:
            reasons = [f"{base}/health does not answer: {fault}"]
        if not reasons or asyncio.get_running_loop().time() > deadline:
            return reasons
        await asyncio.sleep(0.05)


async def get(url: str) -> tuple[int, bytes]:
    """Status and body of one GET over a connection of its own: all the HTTP client that the parent needs.

    Raises:
        OSError, ValueError: no answer, or none of HTTP.
    """
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    return int(head.split(maxsplit=2)[1]) if head else 0, body
