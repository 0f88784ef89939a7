"""The page of usage: a list that nobody can change, and its table."""

import csv
import io
from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from quotas.access.services import key_create, tenant_create
from quotas.models import ApiKey, Usage
from tests.integration.web.staff import staff

pytestmark = pytest.mark.django_db

LIST = "admin:quotas_usage_changelist"
EXPORT = "admin:quotas_usage_export_csv"


@pytest.fixture
def ada() -> ApiKey:
    tenant_create(name="ada")
    return key_create(tenant="ada")[0]


def used(key: ApiKey | None, *, model: str = "tiny", hour: int = 0, **counts: int) -> Usage:
    return Usage.objects.create(
        period="hour",
        starts_at=datetime(2026, 11, 5, hour, tzinfo=UTC),
        tenant=key.tenant.name if key else "default",
        api_key=key.pk if key else None,
        model=model,
        **({"requests": 1} | counts),
    )


def table(response: Any) -> list[list[str]]:
    assert response.status_code == 200
    text = b"".join(response.streaming_content).decode()
    return list(csv.reader(io.StringIO(text, newline="")))


def test_before_anything_was_used_the_page_says_what_makes_it_appear(root: Client) -> None:
    assert "a second or two after the first request ends" in root.get(reverse(LIST)).content.decode()


def test_the_list_tells_who_used_what(root: Client, ada: ApiKey) -> None:
    used(ada, requests=1234)
    page = root.get(reverse(LIST)).content.decode()
    assert f"{ada.prefix}…" in page
    assert "1,234" in page
    assert ada.digest not in page


def test_what_was_added_up_shows_its_day_or_month_only(root: Client, ada: ApiKey) -> None:
    for period, starts_at in (("day", datetime(2025, 5, 3, tzinfo=UTC)), ("month", datetime(2023, 4, 1, tzinfo=UTC))):
        Usage.objects.create(period=period, starts_at=starts_at, tenant="ada", model="tiny")
    page = root.get(reverse(LIST)).content.decode()
    assert ">2025-05-03<" in page
    assert ">2023-04<" in page


def test_a_row_has_a_page_with_all_that_was_counted(root: Client, ada: ApiKey) -> None:
    row = used(ada, requests=5, seconds=17)
    page = root.get(reverse("admin:quotas_usage_change", args=[row.pk])).content.decode()
    assert f"{ada.prefix}…" in page
    assert "17.0" in page


def test_a_key_that_is_gone_is_told_by_its_number(root: Client, ada: ApiKey) -> None:
    used(ada)
    number = ada.pk
    ada.delete()
    assert f"no. {number}, gone" in root.get(reverse(LIST)).content.decode()


@pytest.mark.parametrize("query", [{}, {"tenant": "ada"}, {"model": "tiny", "starts_at__year": "2026"}, {"q": "ada"}])
def test_the_list_and_its_table_are_filtered_alike(root: Client, ada: ApiKey, query: dict[str, str]) -> None:
    used(ada)
    used(ada, hour=1)
    used(None, model="large")
    page = root.get(reverse(LIST), query)
    shown = {usage.pk for usage in page.context["cl"].result_list}
    (button,) = page.context["actions_list"]
    head, *rows = table(root.get(button["path"]))
    assert head[:6] == ["period", "starts_at", "tenant", "key_id", "key_prefix", "model"]
    assert len(rows) == len(shown) == (2 if query else 3)


def test_the_table_is_a_file_and_holds_no_formula(root: Client) -> None:
    tenant_create(name="=1+1")
    used(key_create(tenant="=1+1")[0])
    response = root.get(reverse(EXPORT))
    assert response["Content-Type"].startswith("text/csv")
    assert response["Content-Disposition"].startswith('attachment; filename="usage_')
    assert table(response)[1][2] == "'=1+1"


def test_a_filter_that_makes_no_sense_leads_back_to_the_list(root: Client) -> None:
    assert root.get(reverse(EXPORT), {"starts_at__year": "x"}).status_code == 302


def test_nobody_adds_changes_or_deletes_usage(root: Client, ada: ApiKey) -> None:
    row = used(ada)
    assert root.post(reverse("admin:quotas_usage_add"), {}).status_code == 403
    assert root.post(reverse("admin:quotas_usage_change", args=[row.pk]), {"requests": 0}).status_code == 403
    assert root.post(reverse("admin:quotas_usage_delete", args=[row.pk]), {"post": "yes"}).status_code == 403


def test_staff_need_leave_to_see_it_and_to_take_it_away() -> None:
    reader, outsider = staff("view_usage"), Client()
    assert reader.get(reverse(LIST)).status_code == 200
    assert reader.get(reverse(EXPORT)).status_code == 200
    assert outsider.get(reverse(EXPORT)).status_code == 302


def test_staff_without_leave_do_not_get_the_table() -> None:
    other = staff("view_tenant")
    assert other.get(reverse(LIST)).status_code == 403
    assert other.get(reverse(EXPORT)).status_code == 403
