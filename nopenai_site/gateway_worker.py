"""gunicorn's worker for the gateway: uvicorn, set for what we serve."""

import gc
from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker

from inference.gateway.http_protocol import HttpProtocol


class GatewayWorker(UvicornWorker):  # type: ignore[misc]
    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": HttpProtocol,
        "ws": "none",
        "lifespan": "on",
        "access_log": False,
        "server_header": False,
        # Before gunicorn's graceful_timeout, after which it kills: until then running streams are told why they end.
        "timeout_graceful_shutdown": 3,
    }

    def load_wsgi(self) -> None:
        super().load_wsgi()
        # What is imported stays. Full collections need not look at it, which takes 60 ms in which nobody is answered.
        gc.collect()
        gc.freeze()
