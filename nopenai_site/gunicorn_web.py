"""gunicorn's configuration for the web process: ``gunicorn --config python:nopenai_site.gunicorn_web``."""

import os
from typing import Any

from nopenai_site import gunicorn_shared
from nopenai_site.gunicorn_shared import ENVIRONMENT, JsonLogger, worker_temporary_directory

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "nopenai_site.settings")

wsgi_app = "nopenai_site.wsgi:application"
worker_class = "gthread"
workers = 1
threads = 8
preload_app = True  # the master shares Django's pages with its worker, and a broken import is seen at once
bind = f"unix:{ENVIRONMENT.web_socket}"
umask = 0o077
timeout = 60
graceful_timeout = 5
accesslog = None
logger_class = JsonLogger
worker_tmp_dir = worker_temporary_directory()
control_socket_disable = True
# The peer on the Unix socket is the gateway, which says for whom it asks.
forwarded_allow_ips = "*"


def post_fork(arbiter: Any, worker: Any) -> None:
    from nopenai_site import traces  # needs Django's settings, which are named above

    gunicorn_shared.post_fork(arbiter, worker)
    traces.start("web")
