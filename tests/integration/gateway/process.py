"""Gateways as the product runs them: two processes under gunicorn."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import aiohttp
import psutil
from prometheus_client.parser import text_string_to_metric_families

from nopenai_site.environment import PROJECT_ROOT
from tests.own_postgres import SETTINGS
from tests.waiting import PATIENCE_SECONDS, until_answer


class GatewayProcesses:
    """Gateways behind one port."""

    def __init__(self, process: asyncio.subprocess.Process, client: aiohttp.ClientSession) -> None:
        self.process = process
        self.client = client

    @property
    def url(self) -> str:
        return str(self.client._base_url)

    def worker_pids(self) -> list[int]:
        return [worker.pid for worker in psutil.Process(self.process.pid).children()]

    async def health(self) -> Any:
        async with self.client.get("/health") as response:
            return await response.json()

    async def chat(self, content: str = "Hello!", **fields: Any) -> tuple[int, Any]:
        body = {"messages": [{"role": "user", "content": content}], **fields}
        async with self.client.post("/v1/chat/completions", json=body) as response:
            return response.status, await response.json()

    async def metrics(self) -> dict[tuple[Any, ...], float]:
        """A scrape of one of the two, by name and labels' values; empty while that one is starting."""
        async with self.client.get("/metrics") as response:
            if response.status == 503:
                return {}
            text = await response.text()
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def until_listed(self, *names: str) -> None:
        """Until both gateways list exactly these as healthy; each ask may reach another of the two, so ask in a row.

        A file that is dropped in may be seen, and listed as incomplete, before its last byte is written.
        """
        await until_answer(self._listed, lambda listed: listed == list(names), in_a_row=4)

    async def until_limited(self, model: str) -> None:
        """Until both gateways know of a limit of tokens."""
        await until_answer(partial(self._limited, model), bool, in_a_row=4)

    async def _limited(self, model: str) -> bool:
        body = {"model": model, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 1}
        async with self.client.post("/v1/chat/completions", json=body) as response:
            return "x-ratelimit-limit-tokens" in response.headers

    async def _listed(self) -> list[str]:
        async with self.client.get("/v1/models") as response:
            body = await response.json()
        models = body["data"] if response.status == 200 else []
        return [model["id"] for model in models if model["health_status"] == "healthy"]

    async def until_healthy(self, status: str) -> Any:
        return await until_answer(self.health, lambda body: body["status"] == status)


@asynccontextmanager
async def gateway_processes(variables: dict[str, str], *, workers: int = 2) -> AsyncIterator[GatewayProcesses]:
    """Gateways, from when they answer until they have ended."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = ("-m", "gunicorn", "--config", "python:nopenai_site.gunicorn_gateway")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *command, "--bind", f"fd://{listener.fileno()}"),
            cwd=PROJECT_ROOT,
            env={
                **os.environ,
                **variables,
                "NOPENAI_GATEWAY_WORKERS": str(workers),
                "DJANGO_SETTINGS_MODULE": SETTINGS,
            },
            pass_fds=(listener.fileno(),),
        )
        # A connection for each request: both processes get some.
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        try:
            async with aiohttp.ClientSession(
                f"http://127.0.0.1:{listener.getsockname()[1]}", connector=connector
            ) as client:
                gateways = GatewayProcesses(process, client)
                async with asyncio.timeout(PATIENCE_SECONDS), client.get("/health/live") as response:
                    assert response.status == 200
                yield gateways
        finally:
            if process.returncode is None:
                process.terminate()
            async with asyncio.timeout(PATIENCE_SECONDS):
                await process.wait()
