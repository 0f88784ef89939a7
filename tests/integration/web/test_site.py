"""What is true of every answer, the API's document, and the pages that belong to no room."""

from pathlib import Path

import pytest
from django.test import Client
from rest_framework.test import APIClient

from inference.gateway import parse
from inference.gateway.app import Gateway, GatewayConfig
from nopenai_site import data_plane
from registry.catalogue import REVISION_HEADER
from registry.selectors import revision_read


@pytest.mark.parametrize("path", ["/", "/admin/login/", "/api/docs", "/nosuch", "/static/nopenai/icon.svg"])
def test_every_answer_carries_the_headers_that_protect_it(path: str) -> None:
    response = Client().get(path)
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["Referrer-Policy"] == "same-origin"
    if "static" not in path:
        assert response["X-Frame-Options"] == "DENY"


def test_cookies_are_our_own_and_scripts_can_not_read_the_session(db: None) -> None:
    client = Client()
    client.get("/admin/login/")
    assert set(client.cookies) == {"nopenai_csrf"}
    assert client.cookies["nopenai_csrf"]["samesite"] == "Lax"


# --- Revision --------------------------------------------------------------------------------------------------------


def test_a_write_answers_with_the_revision_that_holds_it(operator: APIClient, models: Path) -> None:
    before = revision_read()
    response = operator.patch("/api/v1/models/tiny", {"display_name": "Klein"}, format="json")
    assert int(response[REVISION_HEADER]) == revision_read() > before


def test_reads_and_refused_writes_carry_no_revision(operator: APIClient, models: Path) -> None:
    assert REVISION_HEADER not in operator.get("/api/v1/models")
    assert REVISION_HEADER not in operator.patch("/api/v1/models/tiny", {"nosuch": 1}, format="json")


# --- The API's document ----------------------------------------------------------------------------------------------


@pytest.fixture
def schema() -> dict[str, dict[str, dict[str, dict[str, object]]]]:
    document: dict[str, dict[str, dict[str, dict[str, object]]]] = (
        Client().get("/api/schema", {"format": "json"}).json()
    )
    return document


def test_the_schema_is_valid_openapi(schema: dict[str, object]) -> None:
    from drf_spectacular.validation import validate_schema

    validate_schema(schema)  # type: ignore[no-untyped-call]


def test_the_schema_names_every_endpoint_of_the_web_process(schema: dict[str, dict[str, object]]) -> None:
    assert {path for path in schema["paths"] if "promote" in path or "register" in path} == {
        "/v1/models/register",
        "/api/v1/models/{name}/promote",
    }
    assert len(schema["paths"].keys() - data_plane.PATHS.keys()) == 32


def test_the_schema_names_every_endpoint_of_the_gateway(schema: dict[str, dict[str, object]]) -> None:
    nowhere = Path("/nowhere")
    config = GatewayConfig(node_name="n", supervisor_socket=nowhere, web_socket=nowhere, require_api_key=False)
    gateway = Gateway(config, feed=lambda state: None)  # type: ignore[arg-type, return-value]
    assert gateway._routes.keys() <= schema["paths"].keys()


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


def test_every_operation_has_a_name_of_its_own(schema: dict[str, dict[str, dict[str, dict[str, object]]]]) -> None:
    names = [operation["operationId"] for operations in schema["paths"].values() for operation in operations.values()]
    assert len(set(names)) == len(names)
    assert not [name for name in names if str(name).endswith(("_2", "_3"))]


def test_every_operation_may_end_in_the_one_error(schema: dict[str, dict[str, dict[str, dict[str, object]]]]) -> None:
    for operations in schema["paths"].values():
        for operation in operations.values():
            assert "default" in operation["responses"]  # type: ignore[operator]


def test_the_docs_page_loads_nothing_from_elsewhere() -> None:
    page = Client().get("/api/docs").content.decode()
    assert "/static/drf_spectacular_sidecar/" in page
    assert "https://" not in page
    assert Client().get("/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js").status_code == 200


# --- Pages -----------------------------------------------------------------------------------------------------------


def test_the_first_page_shows_a_curl_that_works_here() -> None:
    page = Client().get("/", HTTP_HOST="localhost:8080").content.decode()
    assert "curl http://localhost:8080/v1/chat/completions" in page
    assert "Authorization" not in page


def test_where_keys_are_required_the_curl_carries_one(keys_required: None) -> None:
    assert "Authorization: Bearer" in Client().get("/").content.decode()


def test_browsers_find_an_icon() -> None:
    assert Client().get("/favicon.ico", follow=True)["Content-Type"] == "image/svg+xml"
