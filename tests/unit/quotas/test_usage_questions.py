"""What a URL asks about usage."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from quotas.usage.questions import Dimension, Format, Question, question
from quotas.windows import Period
from registry.errors import InvalidRequest

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)


def asked(**parameters: str | list[str]) -> Question:
    """``from_`` is ``from``."""
    listed = {name.rstrip("_"): [value] if isinstance(value, str) else value for name, value in parameters.items()}
    return question(listed, now=NOW, zone=BERLIN)


def refusal(**parameters: str | list[str]) -> tuple[str | None, str]:
    with pytest.raises(InvalidRequest) as caught:
        asked(**parameters)
    return caught.value.param, caught.value.message


def test_nothing_asks_for_one_sum_of_thirty_days_until_now() -> None:
    assert asked() == Question(start=datetime(2026, 10, 24, tzinfo=BERLIN), end=NOW)


def test_everything_may_be_named() -> None:
    found = asked(from_="2026-11-01", to="2026-11-30", by="tenant,model", period="day", format="csv")
    assert found == Question(
        start=datetime(2026, 11, 1, tzinfo=BERLIN),
        end=datetime(2026, 12, 1, tzinfo=BERLIN),
        by=(Dimension.TENANT, Dimension.MODEL),
        period=Period.DAY,
        format=Format.CSV,
    )


def test_sums_may_be_kept_to_a_model_a_tenant_and_a_key() -> None:
    found = asked(model="phi-4", tenant=" acme ", key="12")
    assert found.only == {Dimension.MODEL: "phi-4", Dimension.TENANT: "acme", Dimension.KEY: 12}
    assert asked(tenant="").only == {}


@pytest.mark.parametrize("text", ["nok_1a2b3c", "-1", "1" * 19, "١"])
def test_a_key_is_named_by_its_number(text: str) -> None:
    param, message = refusal(key=text)
    assert param == "key"
    assert "number" in message


def test_a_filter_is_given_once() -> None:
    assert refusal(tenant=["ada", "bob"])[0] == "tenant"


def test_one_date_is_that_day_also_when_it_has_25_hours() -> None:
    found = asked(from_="2026-10-25", to="2026-10-25")
    assert found.end.astimezone(UTC) - found.start.astimezone(UTC) == timedelta(hours=25)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-01T10:00:00Z", datetime(2026, 11, 1, 10, tzinfo=UTC)),
        ("2026-11-01T10:00:00+02:00", datetime(2026, 11, 1, 8, tzinfo=UTC)),
        ("2026-11-01T10:00:00 02:00", datetime(2026, 11, 1, 8, tzinfo=UTC)),  # a plus sign that was not escaped
        ("2026-11-01 10:00", datetime(2026, 11, 1, 10, tzinfo=BERLIN)),
        (" 2026-11-01T10:00 ", datetime(2026, 11, 1, 10, tzinfo=BERLIN)),
    ],
)
def test_a_time_has_its_own_zone_or_the_servers(text: str, moment: datetime) -> None:
    assert asked(from_=text).start == moment


@pytest.mark.parametrize("by", ["model, key,model", ["model", "key"], ["model,", "", "key"]])
def test_parts_may_be_separated_by_commas_or_named_again(by: str | list[str]) -> None:
    assert asked(by=by).by == (Dimension.MODEL, Dimension.KEY)


@pytest.mark.parametrize(
    ("parameters", "param", "told"),
    [
        ({"group": "model"}, "group", "allowed: from, to, by, period, format"),
        ({"by": "user"}, "by", "allowed: model, tenant, key"),
        ({"period": "minute"}, "period", "allowed: hour, day, month"),
        ({"period": ["day", "hour"]}, "period", "given 2 times"),
        ({"format": "xml"}, "format", "allowed: json, csv"),
        ({"from_": "yesterday"}, "from", "2026-11-01T12:00:00Z"),
        ({"to": "2026-02-30"}, "to", "write a date"),
        ({"to": "9999-12-31"}, "to", "2000 to 2199"),
        ({"from_": "0001-01-01T00:00:00+14:00"}, "from", "2000 to 2199"),
        ({"from_": "2026-11-24"}, "from", "span is empty"),
        ({"from_": "2026-11-02", "to": "2026-11-01"}, "from", "span is empty"),
        ({"from_": "2026-01-01", "period": "hour"}, "from", "at most 100"),
        ({"from_": "2020-01-01", "period": "day"}, "from", "or a longer 'period'"),
        ({"from_": "2000-01-01", "to": "2199-01-01"}, "from", "at most 11000"),
    ],
)
def test_what_can_not_be_asked_is_refused_with_what_can(
    parameters: dict[str, str | list[str]], param: str, told: str
) -> None:
    assert refusal(**parameters)[0] == param
    assert told in refusal(**parameters)[1]


def test_who_may_not_ask_for_others_is_told_what_there_is_for_them() -> None:
    with pytest.raises(InvalidRequest, match="allowed: model"):
        question({"by": ["key"]}, now=NOW, zone=BERLIN, dimensions=[Dimension.MODEL])
