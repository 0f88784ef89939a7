"""Reads of usage, as plain values."""

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from django.db.models import F, Sum
from django.db.models.functions import Trunc

from quotas.models import ApiKey, Usage
from quotas.usage.counts import COUNTED, UsageCounts
from quotas.usage.questions import Dimension, Question
from quotas.windows import Period

_CHUNK = 2000

_COLUMN_OF = {Dimension.MODEL: "model", Dimension.TENANT: "tenant", Dimension.KEY: "api_key"}


class UsageSum(msgspec.Struct, frozen=True, kw_only=True):
    """What was used. Of what was not asked for it says nothing: None, or an empty text."""

    starts_at: datetime | None = None
    model: str | None = None
    tenant: str | None = None
    key_pk: int | None = None
    """Also None: without a key."""
    key_prefix: str = ""
    """How that key begins; empty where it is gone."""
    counts: UsageCounts


def usage_sums(question: Question, *, zone: ZoneInfo, keys: Collection[int] | None = None) -> Iterator[UsageSum]:
    """The answer, in the order of time and names, as it comes from SQL. Without ``by`` and ``period`` it is one sum.

    What was added up to a day or a month counts where that began.

    Args:
        zone: where days and months begin.
        keys: of these only, by their numbers; None: of all, and without a key.
    """
    names = (["at"] if question.period else []) + [_COLUMN_OF[each] for each in question.by]
    sums = {f"sum_{name}": Sum(name, default=0) for name in COUNTED}
    only = {_COLUMN_OF[each]: wanted for each, wanted in question.only.items()}
    rows = Usage.objects.filter(starts_at__gte=question.start, starts_at__lt=question.end, **only).order_by()
    if keys is not None:
        rows = rows.filter(api_key__in=keys)
    if not names:
        yield _sum({}, list(rows.aggregate(**sums).values()), {})
        return
    if question.period:
        rows = rows.annotate(at=_beginning(question.period, zone))
    prefixes = dict(ApiKey.objects.values_list("pk", "prefix")) if Dimension.KEY in question.by else {}
    grouped = rows.values_list(*names).annotate(**sums).order_by(*names)
    for row in grouped.iterator(chunk_size=_CHUNK):
        yield _sum(dict(zip(names, row, strict=False)), row[len(names) :], prefixes)


def _beginning(period: Period, zone: ZoneInfo) -> Any:
    """Hours are kept as they are: told by the hands of a clock, two of them would be one in autumn."""
    return F("starts_at") if period is Period.HOUR else Trunc("starts_at", period.value, tzinfo=zone)


def _sum(named: dict[str, Any], numbers: Any, prefixes: dict[int, str]) -> UsageSum:
    key_pk = named.get("api_key")
    return UsageSum(
        starts_at=named.get("at"),
        model=named.get("model"),
        tenant=named.get("tenant"),
        key_pk=key_pk,
        key_prefix=prefixes.get(key_pk, "") if key_pk is not None else "",
        counts=UsageCounts(**dict(zip(COUNTED, numbers, strict=True))),
    )
