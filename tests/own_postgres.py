"""A PostgreSQL of one test's own, with our tables in it, which it may stop and freeze."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from nopenai_site import environment
from nopenai_site.environment import PROJECT_ROOT
from nopenai_site.up.directories import make_private
from tests.services import running_postgres

SETTINGS = "nopenai_site.settings_core"


class OwnPostgres:
    """Not started yet; what it holds outlives a stop."""

    def __init__(self, directory: Path) -> None:
        self._environment = environment.load({"NOPENAI_DATA_DIR": str(directory), "NOPENAI_LOG_DIR": str(directory)})
        make_private(self._environment.data_dir)
        make_private(self._environment.run_dir)
        self._running = ExitStack()
        self._process: subprocess.Popen[bytes]
        self.url = environment.embedded_database_url(self._environment)

    def start(self) -> None:
        self._process = self._running.enter_context(running_postgres(self._environment, durable=True))

    def stop(self) -> None:
        self._running.close()

    @contextmanager
    def running(self) -> Iterator[None]:
        self.start()
        try:
            yield
        finally:
            self.stop()

    async def migrate(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "manage.py", "migrate", "--verbosity=0"),
            cwd=PROJECT_ROOT,
            env={**os.environ, "DATABASE_URL": self.url, "DJANGO_SETTINGS_MODULE": SETTINGS},
        )
        assert await process.wait() == 0

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """The server and its sessions stand still, as on a machine that hangs: they keep their connections, answer
        nothing and refuse nothing."""
        server = psutil.Process(self._process.pid)
        server.suspend()  # first, so that the list of its children is complete
        processes = [server, *server.children()]
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in reversed(processes):
                with suppress(psutil.NoSuchProcess):
                    process.resume()
