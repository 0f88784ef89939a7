"""What the gateway's and the web process's gunicorn have in common."""

import logging
import os
import signal
from typing import Any

from gunicorn.glogging import Logger

from nopenai_site import environment, logs
from nopenai_site.secret_key import secret_key_make
from nopenai_site.up.privileges import die_with_parent

ENVIRONMENT = environment.load()
secret_key_make(ENVIRONMENT.data_dir)


class JsonLogger(Logger):  # type: ignore[misc]
    """gunicorn's own messages, as lines of our log. Its birth announcements are for DEBUG."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        logs.configure(ENVIRONMENT.log_level, module=None)
        for logger in (self.error_log, self.access_log):
            logger.handlers.clear()
            logger.propagate = True
        self.error_log.setLevel(logging.DEBUG if ENVIRONMENT.log_level == "DEBUG" else logging.WARNING)


def post_fork(arbiter: Any, worker: Any) -> None:
    """A killed master leaves workers serving for more than half a minute, beside those of the next one."""
    die_with_parent(signal.SIGKILL, parent=arbiter.pid)


def worker_temporary_directory() -> str:
    """Where workers touch a file to show that they live: in memory, since a busy disk would make them look dead."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else str(ENVIRONMENT.run_dir)
