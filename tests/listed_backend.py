"""A backend elsewhere as far as a check sees it: ``GET /v1/models``, in a thread of its own."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class ListedBackend:
    def __init__(self) -> None:
        self.status = 200
        self.models = ["theirs"]
        self.keys: list[str | None] = []
        """The Authorization headers that came."""
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


@contextmanager
def listed_backend() -> Iterator[ListedBackend]:
    backend = ListedBackend()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/v1/models"
            backend.keys.append(self.headers.get("Authorization"))
            body = json.dumps({"data": [{"id": model} for model in backend.models]}).encode()
            self.send_response(backend.status)
            if 300 <= backend.status < 400:
                self.send_header("Location", "http://127.0.0.1:9/v1/models")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        backend.port = server.server_port
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield backend
        server.shutdown()
