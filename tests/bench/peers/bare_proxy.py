"""The least that a Python proxy can do: uvicorn takes the request, aiohttp passes it on, nothing is looked at.

``uvicorn bare_proxy:app`` with ``UPSTREAM`` in the environment.
"""

import os
from typing import Any

import aiohttp

UPSTREAM = os.environ["UPSTREAM"]
session: aiohttp.ClientSession | None = None


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    global session
    if scope["type"] != "http":
        return
    if session is None:
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = {"content-type": "application/json"}
    async with session.post(UPSTREAM + scope["path"], data=body, headers=headers) as answer:
        content = await answer.read()
        await send(
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())],
            }
        )
    await send({"type": "http.response.body", "body": content})
