"""What a window of limits begins with when its first limit is set in the midst of it."""

from datetime import UTC, datetime, timedelta

import pytest

from quotas.models import Usage
from quotas.usage.selectors import WindowUsage, usage_of_window

NOON = datetime(2026, 11, 5, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.django_db
def test_a_windows_usage_is_that_of_its_model_within_it_by_all_callers() -> None:
    for starts_at, model, api_key in (
        (NOON - HOUR, "tiny", 1),
        (NOON, "tiny", 1),
        (NOON, "tiny", None),
        (NOON, "large", 1),
        (NOON + HOUR, "tiny", 1),
    ):
        Usage.objects.create(
            period="hour", starts_at=starts_at, tenant="ada", api_key=api_key, model=model,
            requests=2, prompt_tokens=30, cached_tokens=20, completion_tokens=5, refused=9,
        )  # fmt: skip
    assert usage_of_window(model="tiny", start=NOON, end=NOON + HOUR) == WindowUsage(tokens=70, requests=4)
    assert usage_of_window(model="gone", start=NOON, end=NOON + HOUR) == WindowUsage(tokens=0, requests=0)
