"""Usage over REST: sums for operators, a key's own for its holder, and both as tables."""

import csv
import io
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from rest_framework.test import APIClient

from quotas.access.services import key_create, key_rotate, tenant_create
from quotas.models import ApiKey, Usage

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("keys_required")]

USAGE = "/api/v1/usage"
MINE = "/api/v1/usage/mine"
NOVEMBER = {"from": "2026-11-01", "to": "2026-11-30"}

Key = tuple[ApiKey, APIClient]


@pytest.fixture
def ada() -> Key:
    return holder("ada")


@pytest.fixture
def bob() -> Key:
    return holder("bob")


def holder(tenant: str) -> Key:
    tenant_create(name=tenant)
    return key_of(tenant)


def key_of(tenant: str) -> Key:
    key, secret = key_create(tenant=tenant)
    client = APIClient(raise_request_exception=False)
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    return key, client


def used(key: ApiKey | None, *, day: int = 5, hour: int = 0, model: str = "tiny", **counts: int) -> None:
    Usage.objects.create(
        period="hour",
        starts_at=datetime(2026, 11, day, hour, tzinfo=UTC),
        tenant=key.tenant.name if key else "default",
        api_key=key.pk if key else None,
        model=model,
        **({"requests": 1, "prompt_tokens": 10} | counts),
    )


def rows(client: APIClient, path: str = USAGE, **query: str) -> list[dict[str, Any]]:
    response = client.get(path, NOVEMBER | query)
    assert response.status_code == 200, response.content
    found: list[dict[str, Any]] = response.json()
    return found


def refusal(client: APIClient, path: str = USAGE, **query: str) -> dict[str, Any]:
    response = client.get(path, query)
    assert response.status_code == 400
    found: dict[str, Any] = response.json()["error"]
    return found


def table(response: Any) -> list[list[str]]:
    text = b"".join(response.streaming_content).decode()
    return list(csv.reader(io.StringIO(text, newline="")))


# --- Sums ------------------------------------------------------------------------------------------------------------


def test_without_parts_it_is_one_sum_also_of_nothing(operator: APIClient, ada: Key) -> None:
    nothing = {
        "requests": 0, "prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 0,
        "seconds": 0.0, "errors": 0, "refused": 0,
    }  # fmt: skip
    assert rows(operator) == [nothing]
    used(ada[0], cached_tokens=4, completion_tokens=3, seconds=2, errors=1, refused=9)
    used(ada[0], hour=1)
    assert rows(operator) == [
        {
            "requests": 2, "prompt_tokens": 20, "cached_tokens": 4, "completion_tokens": 3,
            "seconds": 2.0, "errors": 1, "refused": 9,
        }
    ]  # fmt: skip


def test_sums_are_told_apart_by_what_is_named_in_that_order(operator: APIClient, ada: Key, bob: Key) -> None:
    used(bob[0], requests=3)
    used(ada[0], requests=2)
    used(ada[0], requests=5, model="large")
    found = rows(operator, by="tenant,model")
    assert [(row["tenant"], row["model"], row["requests"]) for row in found] == [
        ("ada", "large", 5),
        ("ada", "tiny", 2),
        ("bob", "tiny", 3),
    ]
    assert list(found[0])[:3] == ["tenant", "model", "requests"]


def test_sums_are_kept_to_a_tenant_a_model_and_a_key_also_in_a_table(operator: APIClient, ada: Key, bob: Key) -> None:
    colleague, _ = key_of("ada")
    for key, model, requests in (
        (ada[0], "tiny", 1),
        (ada[0], "large", 20),
        (colleague, "tiny", 300),
        (bob[0], "tiny", 4000),
    ):
        used(key, model=model, requests=requests)
    only: dict[str, str]
    for only, requests in (
        ({"tenant": "ada"}, 321),
        ({"tenant": "ada", "model": "tiny"}, 301),
        ({"model": "tiny"}, 4301),
        ({"key": str(colleague.pk)}, 300),
        ({"tenant": "bob", "key": str(ada[0].pk)}, 0),
        ({"tenant": "nobody\0"}, 0),
    ):
        assert [row["requests"] for row in rows(operator, **only)] == [requests], only
        _, row = table(operator.get(USAGE, {**NOVEMBER, **only, "format": "csv"}))
        assert row[0] == str(requests)
    by_key = rows(operator, tenant="ada", by="key")
    assert [row["key_id"] for row in by_key] == [ada[0].pk, colleague.pk]


def test_a_key_is_told_by_its_number_and_how_it_begins_also_when_it_is_gone(operator: APIClient, ada: Key) -> None:
    gone, _ = key_of("ada")
    used(ada[0])
    used(gone)
    used(None)
    gone_pk = gone.pk
    gone.delete()
    assert [(row["key_id"], row["key_prefix"]) for row in rows(operator, by="key")] == [
        (ada[0].pk, ada[0].prefix),
        (gone_pk, ""),
        (None, ""),
    ]


@pytest.mark.parametrize(
    ("period", "starts"),
    [
        ("hour", ["2026-11-05T00:00:00+01:00", "2026-11-05T23:00:00+01:00", "2026-11-06T00:00:00+01:00"]),
        ("day", ["2026-11-05T00:00:00+01:00", "2026-11-06T00:00:00+01:00"]),
        ("month", ["2026-11-01T00:00:00+01:00"]),
    ],
)
def test_hours_days_and_months_are_those_of_the_servers_zone(
    operator: APIClient, ada: Key, settings: Any, period: str, starts: list[str]
) -> None:
    settings.TIME_ZONE = "Europe/Berlin"
    used(ada[0], day=4, hour=23)
    used(ada[0], day=5, hour=22)
    used(ada[0], day=5, hour=23)
    found = rows(operator, period=period)
    assert [row["starts_at"] for row in found] == starts
    assert sum(row["requests"] for row in found) == 3


def test_both_hours_between_two_and_three_of_an_autumn_night_are_told(
    operator: APIClient, ada: Key, settings: Any
) -> None:
    settings.TIME_ZONE = "Europe/Berlin"
    for hour in (0, 1):
        Usage.objects.create(
            period="hour", starts_at=datetime(2026, 10, 25, hour, tzinfo=UTC), tenant="ada", model="tiny", requests=1
        )
    found = rows(operator, **{"from": "2026-10-25", "to": "2026-10-25", "period": "hour"})
    assert [row["starts_at"] for row in found] == ["2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00"]
    (day,) = rows(operator, **{"from": "2026-10-25", "to": "2026-10-25", "period": "day"})
    assert (day["starts_at"], day["requests"]) == ("2026-10-25T00:00:00+02:00", 2)


def test_the_last_day_is_part_of_the_span_and_a_time_where_it_ends_is_not(operator: APIClient, ada: Key) -> None:
    used(ada[0], day=5, hour=0)
    used(ada[0], day=5, hour=23)
    used(ada[0], day=6, hour=0)
    assert rows(operator, **{"from": "2026-11-05", "to": "2026-11-05"})[0]["requests"] == 2
    assert rows(operator, **{"from": "2026-11-05", "to": "2026-11-05T23:00:00Z"})[0]["requests"] == 1


# --- Refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "param", "told"),
    [
        ({"until": "2026-11-01"}, "until", "allowed: from, to, by, period, format"),
        ({"by": "colour"}, "by", "allowed: model, tenant, key"),
        ({"period": "minute"}, "period", "allowed: hour, day, month"),
        ({"format": "xml"}, "format", "allowed: json, csv"),
        ({"from": "monday"}, "from", "ISO 8601"),
        ({"from": "2020-01-01", "to": "2026-01-01", "period": "hour"}, "from", "at most 100"),
        ({"from": "\0"}, "from", "ISO 8601"),
    ],
)
def test_what_can_not_be_answered_is_refused_with_what_can(
    operator: APIClient, query: dict[str, str], param: str, told: str
) -> None:
    error = refusal(operator, **query)
    assert error["param"] == param
    assert told in error["message"]
    assert error["type"] == "invalid_request_error"


def test_an_answer_that_is_too_long_is_refused_but_not_as_a_table(
    operator: APIClient, ada: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quotas.usage.apis._MOST_JSON_ROWS", 2)
    for hour in range(3):
        used(ada[0], hour=hour)
    error = refusal(operator, **NOVEMBER, period="hour")
    assert "more than 2 rows" in error["message"]
    assert len(rows(operator, period="day")) == 1
    assert len(table(operator.get(USAGE, {**NOVEMBER, "period": "hour", "format": "csv"}))) == 4


# --- Tables ----------------------------------------------------------------------------------------------------------


def test_a_table_is_a_file_with_a_head(operator: APIClient, ada: Key) -> None:
    used(ada[0], completion_tokens=7)
    response = operator.get(USAGE, {**NOVEMBER, "by": "key,model", "period": "day", "format": "csv"})
    assert response["Content-Type"] == "text/csv; charset=utf-8; header=present"
    assert response["Content-Disposition"] == 'attachment; filename="usage_2026-11-01_2026-11-30.csv"'
    head, row = table(response)
    assert head[:5] == ["starts_at", "key_id", "key_prefix", "model", "requests"]
    assert row[:5] == ["2026-11-05T00:00:00+00:00", str(ada[0].pk), ada[0].prefix, "tiny", "1"]
    assert dict(zip(head, row, strict=True))["completion_tokens"] == "7"


def test_a_tenant_can_not_be_a_formula(operator: APIClient) -> None:
    key, _ = holder("=cmd|' /C calc'!A0")
    used(key)
    _, row = table(operator.get(USAGE, {**NOVEMBER, "by": "tenant", "format": "csv"}))
    assert row[0] == "'=cmd|' /C calc'!A0"


def test_a_database_that_is_away_is_told_before_a_table_begins(keys_not_required: None, database_away: None) -> None:
    response = APIClient(raise_request_exception=False).get(USAGE, {"format": "csv", "by": "model"})
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "database_unavailable"


# --- One's own -------------------------------------------------------------------------------------------------------


def test_a_key_sees_what_it_used_itself_and_nothing_else(ada: Key, bob: Key) -> None:
    colleague, _ = key_of("ada")
    for each, requests in ((ada[0], 1), (colleague, 20), (bob[0], 300), (None, 4000)):
        used(each, requests=requests)
    assert [row["requests"] for row in rows(ada[1], MINE)] == [1]
    assert [row["requests"] for row in rows(bob[1], MINE, by="model", period="hour")] == [300]
    _, row = table(bob[1].get(MINE, {**NOVEMBER, "format": "csv"}))
    assert row[0] == "300"
    assert [rows(bob[1], MINE, model=model)[0]["requests"] for model in ("tiny", "large")] == [300, 0]


@pytest.mark.parametrize("part", ["tenant", "key", "model,key"])
def test_ones_own_usage_has_no_parts_that_tell_of_others(ada: Key, part: str) -> None:
    assert "allowed: model." in refusal(ada[1], MINE, by=part)["message"]


def test_a_rotated_key_goes_on_telling_what_its_predecessors_used(ada: Key, bob: Key) -> None:
    used(ada[0], requests=3)
    used(bob[0], requests=500)
    second, _ = key_rotate(key_pk=ada[0].pk)
    used(second, requests=4)
    third, secret = key_rotate(key_pk=second.pk)
    used(third, requests=5)
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    assert [row["requests"] for row in rows(client, MINE)] == [12]


@pytest.mark.parametrize("parameter", ["key", "key_pk", "tenant", "scope"])
def test_nobody_asks_in_anothers_name(ada: Key, parameter: str) -> None:
    assert refusal(ada[1], MINE, **{parameter: "1"})["param"] == parameter


def test_who_comes_without_a_key_has_none_of_their_own(keys_not_required: None) -> None:
    assert "send one" in refusal(APIClient(), MINE)["message"]


def test_a_member_may_not_see_the_usage_of_all(ada: Key, caller: Callable[[str], APIClient]) -> None:
    assert ada[1].get(USAGE).status_code == 403
    for who in ("outsider", "impostor"):
        assert caller(who).get(MINE).status_code == 401
