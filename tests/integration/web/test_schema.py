"""The API's document names all that is answered, and its page shows it."""

import re
from collections.abc import Iterable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from rest_framework.views import APIView

from inference.gateway import parse
from inference.gateway.app import Gateway, GatewayConfig
from nopenai_site import data_plane
from nopenai_site.schema import DocsView, SchemaView
from tests.integration.gateway.rig import GivenLeases, GivenUsage

Schema = dict[str, dict[str, dict[str, dict[str, Any]]]]


@pytest.fixture
def schema() -> Schema:
    document: Schema = Client().get("/api/schema", {"format": "json"}).json()
    return document


def test_the_schema_is_valid_openapi(schema: Schema) -> None:
    from drf_spectacular.validation import validate_schema

    validate_schema(schema)  # type: ignore[no-untyped-call]


def test_the_schema_is_made_without_a_warning() -> None:
    call_command("spectacular", fail_on_warn=True, stdout=StringIO())


def test_a_rotated_key_s_number_is_a_number(schema: Schema) -> None:
    field = schema["components"]["schemas"]["KeyOut"]["properties"]["rotated_from"]
    assert (field["type"], field["nullable"]) == ("integer", True)


def test_the_schema_names_every_endpoint_of_the_web_process_with_its_methods(schema: Schema) -> None:
    described = {path: set(operations) for path, operations in schema["paths"].items() if path not in data_plane.PATHS}
    assert described == dict(rest_endpoints(get_resolver().url_patterns))


def test_the_schema_names_every_endpoint_of_the_gateway_with_its_methods(schema: Schema) -> None:
    gateway = a_gateway()
    described = {path: set(schema["paths"][path]) for path in data_plane.PATHS}
    exact = {path: operations for path, operations in described.items() if "{" not in path}
    assert exact == {path: operations_of(methods) for path, (methods, _) in gateway.routes.items()}
    below = {(path.partition("{")[0], *operations) for path, operations in described.items() if "{" in path}
    assert below == {(start, *operations_of(methods)) for start, (methods, _) in gateway.routes_below.items()}


def a_gateway() -> Gateway:
    nowhere = Path("/nowhere")
    config = GatewayConfig(node_name="n", supervisor_socket=nowhere, web_socket=nowhere, require_api_key=False)
    return Gateway(config, feed=lambda state: None, leases=GivenLeases(), usage=GivenUsage())  # type: ignore[arg-type, return-value]


def operations_of(methods: Iterable[str]) -> set[str]:
    """As the document has them: HEAD goes without saying."""
    return {method.lower() for method in methods} - {"head", "options"}


def rest_endpoints(patterns: Iterable[URLPattern | URLResolver], before: str = "/") -> Iterator[tuple[str, set[str]]]:
    """Every path that a REST view of ours answers, as OpenAPI writes it, and what it takes."""
    for pattern in patterns:
        path = before + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", str(pattern.pattern)).replace("{pk}", "{id}")
        if isinstance(pattern, URLResolver):
            yield from rest_endpoints(pattern.url_patterns, path)
            continue
        view: Any = getattr(pattern.callback, "cls", object)
        if issubclass(view, APIView) and view not in (SchemaView, DocsView):
            yield path, operations_of(view().allowed_methods)


@pytest.mark.parametrize(
    ("path", "known"),
    [
        ("/v1/chat/completions", parse._CHAT),
        ("/v1/completions", parse._COMPLETION),
        ("/v1/embeddings", parse._EMBEDDING),
    ],
)
def test_the_schema_names_every_field_that_the_gateway_serves(path: str, known: dict[str, object]) -> None:
    body = data_plane.PATHS[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"].keys() == known.keys() - {"functions", "function_call", "modalities", "audio"}


def test_every_operation_has_a_name_of_its_own(schema: Schema) -> None:
    names = [operation["operationId"] for operations in schema["paths"].values() for operation in operations.values()]
    assert len(set(names)) == len(names)
    assert not [name for name in names if str(name).endswith(("_2", "_3"))]


def test_every_operation_may_end_in_the_one_error(schema: Schema) -> None:
    for operations in schema["paths"].values():
        for operation in operations.values():
            assert "default" in operation["responses"]


def test_the_docs_page_loads_nothing_from_elsewhere() -> None:
    page = Client().get("/api/docs").content.decode()
    assert "/static/drf_spectacular_sidecar/" in page
    assert "https://" not in page
    assert Client().get("/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js").status_code == 200
