"""Warm hours, on the page of their model."""

from typing import Any

from django.db.models import ForeignKey
from django.http import HttpRequest
from unfold.admin import TabularInline

from registry.models import Version, WarmSchedule


class ScheduleInline(TabularInline):  # type: ignore[misc] # Unfold has no types
    model = WarmSchedule
    verbose_name = "warm hours"
    verbose_name_plural = "Warm hours"
    extra = 0
    tab = False
    fields = ("opens", "closes", "time_zone", "version", "open_since")
    readonly_fields = ("open_since",)

    def formfield_for_foreignkey(self, db_field: "ForeignKey[Any, Any]", request: HttpRequest, **kwargs: Any) -> Any:
        """Versions of this model only."""
        if db_field.name == "version" and request.resolver_match is not None:
            model_pk = request.resolver_match.kwargs["object_id"]
            kwargs["queryset"] = Version.objects.filter(model__pk=model_pk).select_related("model")
        return super().formfield_for_foreignkey(db_field, request, **kwargs)
