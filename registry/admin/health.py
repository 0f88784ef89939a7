"""Health: what the checks have found, and every change of it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest

from registry.health import selectors, services
from registry.health.report import Result
from registry.models import HealthTransition, Model
from registry.staff import HEALTH_COLOURS, ReadOnlyAdmin, coloured, column

_RESULT_COLOURS = {
    Result.PASSED.value: "success",
    Result.WARNING.value: "warning",
    Result.FAILED.value: "danger",
    Result.PENDING.value: "info",
}
_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownCheck:
    title: str
    label: str
    reason: str
    at: datetime | None


def shown_health(model: Model) -> dict[str, Any]:
    """For a model's page."""
    found = selectors.models_health(names=[model.name])
    return {
        "checks": [
            ShownCheck(
                title=check.name.value.replace("_", " ").capitalize(),
                label=coloured(check.result.value, _RESULT_COLOURS),
                reason=check.reason,
                at=datetime.fromtimestamp(check.checked_at, UTC) if check.checked_at else None,
            )
            for health in found
            for check in health.checks
        ],
        "history": selectors.history_list(model=model)[:_SHOWN],
    }


def check(model: Model) -> None:
    services.model_check(
        name=model.name, models_dirs=settings.NOPENAI.models_dirs, starter_model=settings.NOPENAI.starter_model
    )


@admin.register(HealthTransition)
class HealthTransitionAdmin(ReadOnlyAdmin):
    empty_hint = "Each change of the health of a model is noted here, and kept for 30 days."
    list_display = ("at", "version", "before_label", "after_label", "reason")
    list_filter = ("after", "before")
    search_fields = ("version__model__name", "reason")
    search_help_text = "Model or reason"
    list_select_related = ("version__model",)
    fields = (("version", "at"), ("before_label", "after_label"), "reason")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [*super().get_readonly_fields(request, obj), "before_label", "after_label"]

    @column("before", ordering="before")
    def before_label(self, transition: HealthTransition) -> str:
        return coloured(transition.before, HEALTH_COLOURS)

    @column("after", ordering="after")
    def after_label(self, transition: HealthTransition) -> str:
        return coloured(transition.after, HEALTH_COLOURS)
