"""Usage over REST: of everybody, for operators; of the key that asks, for its holder."""

from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import ClassVar
from zoneinfo import ZoneInfo

import msgspec
from django.conf import settings
from django.http.response import HttpResponseBase
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from quotas.access.selectors import key_lineage
from quotas.usage import selectors, tables
from quotas.usage.downloads import csv_response
from quotas.usage.questions import Dimension, Format, Question, question
from quotas.usage.selectors import UsageSum
from quotas.usage.serializers import UsageOut
from quotas.usage.tables import Cell
from registry.errors import InvalidRequest
from registry.rest import ControlView

_MOST_JSON_ROWS = 10_000

_OWN = (Dimension.MODEL,)
"""What a caller may have their own usage told apart by."""


_FILTERS: dict[Dimension, tuple[type, str]] = {
    Dimension.MODEL: (str, "Of this model only."),
    Dimension.TENANT: (str, "Of this tenant only."),
    Dimension.KEY: (int, "Of the key with this number only."),
}


def _parameters(dimensions: Sequence[Dimension]) -> list[OpenApiParameter]:
    words = " or ".join(f"`{each.value}`" for each in dimensions)
    return [
        OpenApiParameter(
            "from",
            str,
            description="A date, or a time as ISO 8601 has it, in NOPENAI_TIME_ZONE if it names no zone; 30 days ago "
            "if absent.",
        ),
        OpenApiParameter("to", str, description="A date, which is part of the span, or a time, where it ends; now."),
        OpenApiParameter("by", str, description=f"Sums for each {words}; several with commas. One sum if absent."),
        OpenApiParameter("period", str, enum=["hour", "day", "month"], description="And for each of these."),
        OpenApiParameter("format", str, enum=[each.value for each in Format], description="`json` if absent."),
        *(OpenApiParameter(each.value, _FILTERS[each][0], description=_FILTERS[each][1]) for each in dimensions),
    ]


_ANSWERS = {
    (200, "application/json"): UsageOut(many=True),
    (200, "text/csv"): OpenApiResponse(str, description="The same as a table with a head."),
}


class _OwnFormat(DefaultContentNegotiation):
    """``format`` is a parameter of the endpoint's own: DRF would look for a renderer of that name."""

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        first = next(iter(renderers))
        return first, first.media_type or ""


class UsageView(ControlView):
    content_negotiation_class = _OwnFormat

    @extend_schema(parameters=_parameters(tuple(Dimension)), responses=_ANSWERS, tags=["usage"])
    def get(self, request: Request) -> HttpResponseBase:
        """What was used: requests, tokens, time, errors. Hours older than 90 days are told as days, days older than
        two years as months, each where it began."""
        asked = _question(request, tuple(Dimension))
        return _answer(asked, selectors.usage_sums(asked, zone=_zone()))


class OwnUsageView(ControlView):
    role: ClassVar[str] = "inference"
    content_negotiation_class = _OwnFormat

    @extend_schema(parameters=_parameters(_OWN), responses=_ANSWERS, tags=["usage"])
    def get(self, request: Request) -> HttpResponseBase:
        """What the key that asks has used itself, and those that it has replaced by rotation."""
        key_pk: int | None = getattr(request.user, "key_pk", None)
        if key_pk is None:
            raise InvalidRequest(
                "This tells what an API key has used: send one ('Authorization: Bearer nok_…'). GET /api/v1/usage "
                "tells operators of all."
            )
        asked = _question(request, _OWN)
        return _answer(asked, selectors.usage_sums(asked, zone=_zone(), keys=key_lineage(key_pk=key_pk)))


def _question(request: Request, dimensions: Sequence[Dimension]) -> Question:
    parameters = dict(request.query_params.lists())
    return question(parameters, now=timezone.now(), zone=_zone(), dimensions=dimensions)


def _zone() -> ZoneInfo:
    return ZoneInfo(settings.TIME_ZONE)


def _answer(asked: Question, sums: Iterable[UsageSum]) -> HttpResponseBase:
    names = tables.columns(asked)
    rows = (_row(each, names) for each in sums)
    if asked.format is Format.CSV:
        # With the first row in hand, a database that is away is still told as such.
        first = list(islice(rows, 1))
        return csv_response(names, chain(first, rows), tables.file_name(asked.start, asked.end, _zone()))
    listed = list(islice(rows, _MOST_JSON_ROWS + 1))
    if len(listed) > _MOST_JSON_ROWS:
        raise InvalidRequest(
            f"The answer has more than {_MOST_JSON_ROWS} rows: name a shorter span, a longer 'period' or fewer parts "
            "in 'by'; or take it as a table, 'format=csv'.",
            param="period",
        )
    return Response([dict(zip(names, row, strict=True)) for row in listed])


def _row(each: UsageSum, names: Sequence[str]) -> list[Cell]:
    """The cells of :func:`quotas.usage.tables.columns`."""
    cells: dict[str, Cell] = {
        "starts_at": tables.moment_text(each.starts_at, _zone()) if each.starts_at else None,
        "model": each.model,
        "tenant": each.tenant,
        "key_id": each.key_pk,
        "key_prefix": each.key_prefix,
        **msgspec.structs.asdict(each.counts),
        "seconds": round(each.counts.seconds, 3),
    }
    return [cells[name] for name in names]
