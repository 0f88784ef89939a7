"""The page of usage: what each key used of each model, and the same as a table to take away."""

from collections.abc import Iterator, Sequence
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.utils.formats import date_format
from unfold.decorators import action

from quotas.models import ApiKey, Usage
from quotas.usage.counts import COUNTED
from quotas.usage.downloads import csv_response
from quotas.usage.tables import Cell, moment_text
from registry.staff import ReadOnlyAdmin, column

_CHUNK = 2000

_FORMATS = {"hour": "Y-m-d H:i T", "day": "Y-m-d", "month": "Y-m"}

_FIELD_OF = {"key_id": "api_key", "key_prefix": "prefix"}
_HEAD = ["period", "starts_at", "tenant", "key_id", "key_prefix", "model", *COUNTED]


@admin.register(Usage)
class UsageAdmin(ReadOnlyAdmin):
    empty_hint = (
        "What each key uses of each model is counted here by the hour: requests, tokens, time and errors. The first "
        "row comes a second or two after the first request ends."
    )
    list_display = (
        "begins", "tenant", "key", "model", "shown_requests", "tokens_in", "cached", "tokens_out", "shown_errors",
        "shown_refused",
    )  # fmt: skip
    list_filter = ("period", "tenant", "model")
    date_hierarchy = "starts_at"
    search_fields = ("tenant", "model")
    search_help_text = "Tenant or model"
    fields = (
        ("starts_at", "period"), ("tenant", "key"), "model", ("requests", "seconds"), ("errors", "refused"),
        ("prompt_tokens", "completion_tokens"), "cached_tokens",
    )  # fmt: skip
    actions_list = ("export_csv",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Usage]:
        prefix = ApiKey.objects.filter(pk=OuterRef("api_key")).values("prefix")
        return Usage.objects.annotate(prefix=Subquery(prefix))

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """The button takes along what the list is filtered by."""
        response = super().changelist_view(request, extra_context)
        for button in (getattr(response, "context_data", None) or {}).get("actions_list", ()):
            button["path"] += f"?{request.GET.urlencode()}" if request.GET else ""
        return response

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [*super().get_readonly_fields(request, obj), "key"]

    @column("from", ordering="starts_at")
    def begins(self, usage: Usage) -> str:
        """As precise as it is kept."""
        return date_format(timezone.localtime(usage.starts_at), _FORMATS[usage.period])

    @column("key", ordering="api_key")
    def key(self, usage: Any) -> str:
        if usage.api_key is None:
            return "–"
        return f"{usage.prefix}…" if usage.prefix else f"no. {usage.api_key}, gone"

    @column("requests", ordering="requests")
    def shown_requests(self, usage: Usage) -> str:
        return f"{usage.requests:,}"

    @column("tokens in", ordering="prompt_tokens")
    def tokens_in(self, usage: Usage) -> str:
        return f"{usage.prompt_tokens:,}"

    @column("cached", ordering="cached_tokens")
    def cached(self, usage: Usage) -> str:
        return f"{usage.cached_tokens:,}"

    @column("tokens out", ordering="completion_tokens")
    def tokens_out(self, usage: Usage) -> str:
        return f"{usage.completion_tokens:,}"

    @column("errors", ordering="errors")
    def shown_errors(self, usage: Usage) -> str:
        return f"{usage.errors:,}"

    @column("refused", ordering="refused")
    def shown_refused(self, usage: Usage) -> str:
        return f"{usage.refused:,}"

    @action(description="Export CSV", icon="download", permissions=["view"])  # type: ignore[untyped-decorator]
    def export_csv(self, request: HttpRequest) -> HttpResponseBase:
        """All that the list shows, on all of its pages."""
        try:
            rows: QuerySet[Usage] = self.get_changelist_instance(request).queryset
        except IncorrectLookupParameters:
            return HttpResponseRedirect(self.list_url())
        return csv_response(_HEAD, _rows(rows), f"usage_{timezone.localdate():%Y-%m-%d}.csv")


def _rows(rows: QuerySet[Usage]) -> Iterator[Sequence[Cell]]:
    zone = ZoneInfo(settings.TIME_ZONE)
    names = [_FIELD_OF.get(name, name) for name in _HEAD]
    for row in rows.values(*names).iterator(chunk_size=_CHUNK):
        cells = row | {"starts_at": moment_text(row["starts_at"], zone), "seconds": round(row["seconds"], 3)}
        yield [cells[name] for name in names]
