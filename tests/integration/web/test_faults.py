"""When something is wrong: one shape for programs, a page for people, and nobody sees a traceback."""

import pytest
from django.core.wsgi import get_wsgi_application
from django.test import Client, RequestFactory
from rest_framework.test import APIClient
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from nopenai_site.requests import with_request_id
from registry import listing

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def shape(response: object) -> dict[str, str]:
    body: dict[str, dict[str, str]] = response.json()  # type: ignore[attr-defined]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


# --- PostgreSQL is away ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/api/v1/models", ""),
        ("GET", "/api/v1/replicas", ""),
        ("POST", "/api/v1/scan", ""),
        ("POST", "/v1/models/default", '{"model_id": "x"}'),
    ],
)
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer nok_x"}, {"Cookie": "nopenai_session=x"}])
def test_the_api_says_503_and_when_to_come_back(
    database_away: None, keys_not_required: None, method: str, path: str, body: str, headers: dict[str, str]
) -> None:
    client = APIClient(raise_request_exception=False, headers=headers)
    response = client.generic(method, path, body, content_type="application/json")
    assert response.status_code == 503
    assert response["Retry-After"] == "2"
    assert shape(response)["code"] == "database_unavailable"


def test_the_admin_shows_a_page_that_says_so(database_away: None) -> None:
    client = Client(raise_request_exception=False, headers=BROWSER)
    client.cookies["nopenai_session"] = "x" * 32
    response = client.get("/admin/registry/model/")
    assert response.status_code == 503
    assert response["Retry-After"] == "2"
    assert "PostgreSQL can’t be reached" in response.content.decode()


def test_signing_in_shows_it_too(database_away: None) -> None:
    client = Client(raise_request_exception=False, headers=BROWSER)
    response = client.post("/admin/login/", {"username": "admin", "password": "x"})
    assert response.status_code == 503
    assert "PostgreSQL can’t be reached" in response.content.decode()


@pytest.mark.parametrize("path", ["/", "/admin/login/", "/api/docs", "/api/schema", "/static/nopenai/icon.svg"])
def test_what_needs_no_database_goes_on(database_away: None, path: str) -> None:
    assert Client().get(path).status_code == 200


# --- Mistakes of ours ------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a secret of the implementation")

    monkeypatch.setattr(listing, "models_list", fail)


def test_a_mistake_of_ours_is_a_500_without_its_insides(broken: None, operator: APIClient) -> None:
    response = operator.get("/api/v1/models")
    assert response.status_code == 500
    assert shape(response)["code"] == "internal_error"
    assert "secret" not in response.content.decode()


def test_people_see_a_page_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nopenai_site.pages.render", None)
    response = Client(raise_request_exception=False, headers=BROWSER).get("/")
    assert response.status_code == 500
    assert "Something broke" in response.content.decode()


# --- Nothing there ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/nosuch", "/api/v1/nosuch", "/v1/nosuch", "/api/v1/models/", "/routing/nosuch"])
def test_an_unknown_path_is_a_404_that_says_where_to_look(path: str) -> None:
    response = Client().get(path)
    assert response.status_code == 404
    assert "/api/docs" in shape(response)["message"]


def test_a_base_url_without_v1_is_recognised() -> None:
    response = Client().post("/chat/completions", {}, content_type="application/json")
    assert response.status_code == 404
    assert "Did you mean /v1/chat/completions?" in shape(response)["message"]


def test_a_browser_gets_a_page_and_the_api_stays_json(db: None) -> None:
    client = Client(headers=BROWSER)
    assert "Nothing here" in client.get("/nosuch").content.decode()
    assert shape(client.get("/api/v1/nosuch"))["code"] == "not_found"


def test_a_path_is_shown_without_becoming_markup() -> None:
    page = Client(headers=BROWSER).get("/<script>alert(1)</script>").content.decode()
    assert "<script>alert" not in page


@pytest.mark.parametrize("accept", ["text/html", "application/xml", "image/png"])
def test_whatever_is_accepted_the_api_answers_json(operator: APIClient, accept: str) -> None:
    response = operator.get("/api/v1/models", HTTP_ACCEPT=accept)
    assert response["Content-Type"] == "application/json"
    if response.status_code != 200:
        assert (response.status_code, shape(response)["code"]) == (406, "not_acceptable")


# --- What the log says of a refusal ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "status"), [("/nosuch", 404), ("/v1/models/default", 405)])
def test_a_refusal_is_logged_with_its_reason_and_the_id_of_its_request(
    keys_not_required: None, path: str, status: int
) -> None:
    """Through the whole of Django, as the server calls it."""
    environ = RequestFactory().get(path, headers={"X-Request-ID": "req-1"}, HTTP_HOST="localhost").environ
    with capture_logs(processors=[merge_contextvars]) as lines:
        b"".join(with_request_id(get_wsgi_application())(environ, lambda *_: None))  # type: ignore[arg-type]
    (line,) = [line for line in lines if line["event"] == "Refused a request"]
    assert (line["request_id"], line["status"], line["path"]) == ("req-1", status, path)
    assert line["reason"].endswith((" what there is.", " takes."))
