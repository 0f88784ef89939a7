"""gunicorn's configuration for the gateway: ``gunicorn --config python:nopenai_site.gunicorn_gateway``.

``manage.py up`` adds ``--bind fd://N``, the port that it holds; started by itself the gateway binds the port.
"""

import os

from nopenai_site.gunicorn_shared import ENVIRONMENT, JsonLogger, post_fork, worker_temporary_directory

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "nopenai_site.settings_core")

wsgi_app = "nopenai_site.gateway:application"
worker_class = "nopenai_site.gateway_worker.GatewayWorker"
workers = ENVIRONMENT.gateway_workers
_host = f"[{ENVIRONMENT.host}]" if ":" in ENVIRONMENT.host else ENVIRONMENT.host
bind = f"{_host}:{ENVIRONMENT.port}"
backlog = 2048
# Longer than the minute after which clients and load balancers drop an idle connection: the server must never be the
# first, or a request could be on its way into a connection that is just being closed.
keepalive = 90
timeout = 30  # a worker whose loop stands still for that long is replaced
graceful_timeout = 5  # running streams get that long when the server stops
accesslog = None
logger_class = JsonLogger
worker_tmp_dir = worker_temporary_directory()
control_socket_disable = True

__all__ = ["post_fork"]
