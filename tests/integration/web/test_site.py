"""What is true of every answer, the API's document, and the pages that belong to no room."""

from pathlib import Path

import pytest
from django.test import Client
from rest_framework.test import APIClient

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


# --- Pages -----------------------------------------------------------------------------------------------------------


def test_the_first_page_shows_a_curl_that_works_here() -> None:
    page = Client().get("/", HTTP_HOST="localhost:8080").content.decode()
    assert "curl http://localhost:8080/v1/chat/completions" in page
    assert "Authorization" not in page


def test_where_keys_are_required_the_curl_carries_one(keys_required: None) -> None:
    assert "Authorization: Bearer" in Client().get("/").content.decode()


def test_browsers_find_an_icon() -> None:
    assert Client().get("/favicon.ico", follow=True)["Content-Type"] == "image/svg+xml"
