"""Usage in SQL: each batch is added once, by any number of gateways at a time."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import IntegrityError, connection
from django.db.models import Sum

from quotas.access.services import key_create
from quotas.models import GatewayLife, KeyUse, Usage
from quotas.usage.counts import UsageCounts, UsageKey
from quotas.usage.services import usage_record

NOON = 1_800_014_400
ONE, OTHER = "1" * 32, "2" * 32


def key(model: str = "tiny", *, hour: int = NOON, key_pk: int | None = 1) -> UsageKey:
    return UsageKey(hour=hour, key_pk=key_pk, tenant="ada", model=model)


def requests_by_model() -> dict[str, int]:
    return dict(Usage.objects.values_list("model").annotate(Sum("requests")).order_by("model"))


@pytest.mark.django_db
def test_what_is_recorded_is_added_to_what_is_there() -> None:
    counts = UsageCounts(
        requests=2, prompt_tokens=30, cached_tokens=10, completion_tokens=5, seconds=1.5, errors=1, refused=4
    )
    assert usage_record(gateway=ONE, batch=1, counts={key(): counts})
    assert usage_record(gateway=OTHER, batch=1, counts={key(): counts, key(key_pk=None): counts})
    first, keyless = Usage.objects.order_by("api_key")
    assert (first.period, first.starts_at.timestamp(), first.tenant) == ("hour", NOON, "ada")
    assert (first.requests, first.prompt_tokens, first.cached_tokens, first.completion_tokens) == (4, 60, 20, 10)
    assert (first.seconds, first.errors, first.refused) == (3.0, 2, 8)
    assert (keyless.api_key, keyless.requests) == (None, 2)


@pytest.mark.django_db
def test_requests_without_a_key_share_one_row() -> None:
    for batch in (1, 2):
        usage_record(gateway=ONE, batch=batch, counts={key(key_pk=None): UsageCounts(requests=1)})
    assert Usage.objects.get().requests == 2


@pytest.mark.django_db
def test_a_batch_that_is_sent_again_changes_nothing() -> None:
    counts = {key(): UsageCounts(requests=1)}
    assert usage_record(gateway=ONE, batch=1, counts=counts)
    assert not usage_record(gateway=ONE, batch=1, counts=counts)
    assert usage_record(gateway=ONE, batch=2, counts=counts)
    assert not usage_record(gateway=ONE, batch=1, counts=counts)
    assert Usage.objects.get().requests == 2


@pytest.mark.django_db
def test_when_a_key_was_used_last_is_kept_with_it() -> None:
    known, _ = key_create()
    counts = UsageCounts(requests=1)
    usage_record(
        gateway=ONE,
        batch=1,
        counts={key(key_pk=known.pk): counts, key(key_pk=known.pk + 1): counts, key(key_pk=None): counts},
    )
    assert [use.key_id for use in KeyUse.objects.all()] == [known.pk]
    assert Usage.objects.count() == 3


@pytest.mark.django_db
def test_a_batch_that_fails_is_not_claimed() -> None:
    with pytest.raises(IntegrityError):
        usage_record(gateway=ONE, batch=1, counts={key("a"): UsageCounts(requests=1), key("b"): UsageCounts(errors=-1)})
    assert not GatewayLife.objects.exists()
    assert not Usage.objects.exists()


@pytest.mark.django_db
def test_after_a_batch_that_was_passed_over_the_next_one_is_written() -> None:
    counts = {key(): UsageCounts(requests=1)}
    assert usage_record(gateway=ONE, batch=1, counts=counts)
    assert usage_record(gateway=ONE, batch=3, counts=counts)


@pytest.mark.django_db(transaction=True)
def test_gateways_that_write_the_same_rows_at_once_neither_lose_one_nor_wait_in_a_circle() -> None:
    models = [f"model {number}" for number in range(30)]

    def write(number: int) -> None:
        rng = random.Random(number)
        try:
            for batch in range(1, 26):
                rng.shuffle(models_here := list(models))
                counts = {key(model): UsageCounts(requests=1) for model in models_here}
                usage_record(gateway=f"{number:032x}", batch=batch, counts=counts)
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(8)))
    assert requests_by_model() == dict.fromkeys(sorted(models), 8 * 25)


@pytest.mark.django_db(transaction=True)
def test_the_same_batch_sent_twice_at_once_is_written_once() -> None:
    def write(_: int) -> bool:
        try:
            return usage_record(gateway=ONE, batch=1, counts={key(): UsageCounts(requests=1)})
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(write, range(8))) == 1
    assert Usage.objects.get().requests == 1
