"""The pages of models' limits: what is used of them, the form that sets them, their history, and emergencies."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.loader import render_to_string
from django.urls import path
from django.urls.resolvers import URLPattern
from django.utils.safestring import SafeString, mark_safe
from unfold.decorators import action

from quotas import limits, selectors
from quotas.limits_forms import LimitsForm
from quotas.models import Emergency, LimitedModel, QuotaRevision
from quotas.modes import Level, Mode, level_after
from quotas.selectors import QuotaReport
from quotas.services import emergency_set, quota_reset, quota_restore, quota_update
from quotas.windows import Period
from registry.staff import ReadOnlyAdmin, ServiceAdmin, become, coloured, column, post_action, refusals_shown

_COLOURS: dict[str, str] = {
    Mode.NORMAL: "success",
    Mode.SOFT_LIMIT: "info",
    Mode.THROTTLED: "warning",
    Mode.HARD_LIMIT: "danger",
    Mode.EMERGENCY: "danger",
}
_BARS = {
    Level.NONE: "bg-green-600 dark:bg-green-500",
    Level.INFO: "bg-blue-600 dark:bg-blue-500",
    Level.WARN: "bg-blue-600 dark:bg-blue-500",
    Level.THROTTLE: "bg-orange-600 dark:bg-orange-500",
    Level.AGGRESSIVE: "bg-orange-600 dark:bg-orange-500",
    Level.HARD: "bg-red-600 dark:bg-red-500",
}
_NOW = {Period.HOUR: "this hour", Period.DAY: "today"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """What is used of a limit in its window of now."""

    title: str
    text: str
    percent: str
    """As CSS writes it."""
    colour: str
    hint: str
    tightest: bool
    """Nearest its end of all: where there is no room for more, it stands for them."""


@dataclass(frozen=True, slots=True)
class Past:
    """A revision, as the history shows it."""

    row: QuotaRevision
    changes: list[str]


@admin.register(LimitedModel)
class LimitsAdmin(ServiceAdmin):
    empty_hint = "Each model can be limited: tokens and requests by the hour and the day, and how many run at once."
    form = LimitsForm
    fieldsets = LimitsForm.fieldsets
    list_display = ("name", "mode", "windows", "at_once", "burst", "own")
    search_fields = ("name",)
    actions_detail = ("give_up",)
    list_before_template = "admin/emergency.html"
    change_form_before_template = "admin/limits_now.html"
    change_form_after_template = "admin/limits_history.html"
    list_per_page = 25

    def get_queryset(self, request: HttpRequest) -> QuerySet[LimitedModel]:
        return LimitedModel.objects.filter(alias_of=None).order_by("name")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type:
        """One that reads how all models of a page stand at once."""
        base = super().get_changelist(request, **kwargs)

        class Reporting(base):  # type: ignore[misc, valid-type] # it is Unfold's, which has no types
            def get_results(self, request: HttpRequest) -> None:
                super().get_results(request)
                models = list(self.result_list)
                reports = selectors.quota_reports(models=models)
                for model in models:
                    model.report = reports[model.pk]
                self.result_list: list[Any] = models

        return Reporting

    def get_urls(self) -> list[URLPattern]:
        restore = self.admin_site.admin_view(self.restore)
        own = path("<int:object_id>/restore/<int:number>/", restore, name="quotas_limitedmodel_restore")
        return [own, *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        shown = {"title": "Limits", "emergency": selectors.emergency_find()}
        return super().changelist_view(request, {**(extra_context or {}), **shown})

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> Any:
        shown: dict[str, Any] = {"show_save_and_continue": False}
        model = self.get_object(request, object_id)
        if model is not None:
            report = selectors.quota_report(model=model)
            shown |= {"title": f"Limits of {model.name}", "bars": _bars(report), "mode": _mode(report)}
            shown |= {"history": _history(model), "may_restore": self.has_change_permission(request, model)}
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **shown})

    def save_model(self, request: HttpRequest, obj: LimitedModel, form: Any, change: bool) -> None:
        author, comment = request.user.get_username(), form.cleaned_data["comment"]
        quota_update(model=obj.name, changes=form.changes, author=author, comment=comment)

    def construct_change_message(self, request: HttpRequest, form: Any, formsets: Any, add: bool = False) -> Any:
        return [{"changed": {"fields": [form.fields[name].label for name in form.changed_data]}}]

    @column("mode")
    def mode(self, model: Any) -> str:
        return _mode(model.report)

    @column("used now")
    def windows(self, model: Any) -> SafeString | str:
        bars = _bars(model.report)
        shown = {"bars": bars, "class": "min-w-56", "others": "hidden lg:block"}
        return mark_safe(render_to_string("admin/limit_bars.html", shown)) if bars else "no limit"

    @column("at once")
    def at_once(self, model: Any) -> str:
        return _number(model.report.quota.max_concurrent_requests)

    @column("tokens of a request")
    def burst(self, model: Any) -> str:
        return _number(model.report.quota.burst_token_limit)

    @column("limits")
    def own(self, model: Any) -> str:
        return f"own, revision {model.report.revision}" if model.report.own else "the default ones"

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """Only what a model has can be given up."""
        model = self.get_object(request, str(object_id))
        own = model is not None and selectors.quota_find(model=model).own
        return list(super().get_actions_detail(request, object_id)) if own else []

    @post_action("Give up its own limits", icon="undo")
    def give_up(self, request: HttpRequest, object_id: str) -> HttpResponse:
        model = get_object_or_404(LimitedModel, pk=object_id)
        with refusals_shown(request):
            quota_reset(model=model.name, author=request.user.get_username())
            messages.success(request, f"{model.name} has the default limits again.")
        return self.back(request)

    def restore(self, request: HttpRequest, object_id: int, number: int) -> HttpResponse:
        """Changes something, so it takes a form that was sent."""
        model = self.get_object(request, str(object_id))
        if model is None or not self.has_change_permission(request, model) or request.method != "POST":
            messages.error(request, "Nothing was restored: that needs the button itself, and leave to change limits.")
            return redirect(self.list_url())
        with refusals_shown(request):
            kept = quota_restore(model=model.name, number=number, author=request.user.get_username())
            messages.success(request, f"What revision {number} said is in force, as revision {kept.revision}.")
        return self.back(request)


@admin.register(Emergency)
class EmergencyAdmin(ReadOnlyAdmin):
    """Each row says who declared an emergency or ended it; the newest one counts."""

    empty_hint = "In an emergency only requests of high priority are served. Nobody has ever declared one."
    list_display = ("state", "reason", "author", "created_at")
    list_before_template = "admin/emergency.html"
    actions_list = ("declare", "end")
    _add_fieldsets = ((None, {"fields": ("reason",), "description": "Clients and the log are told the reason."}),)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("quotas.add_emergency"))

    def has_operate_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.has_add_permission(request)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return super().get_readonly_fields(request, obj) if obj else []

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        return super().get_fieldsets(request, obj) if obj else self._add_fieldsets

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        # Its button has a name: the nameless one beside it would do the same.
        shown = {"title": "Emergencies", "emergency": selectors.emergency_find(), "has_add_permission": False}
        return super().changelist_view(request, {**(extra_context or {}), **shown})

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None) -> Any:
        shown = {"title": "Declare an emergency", "show_save_and_continue": False, "show_save_and_add_another": False}
        return super().add_view(request, form_url, {**(extra_context or {}), **shown})

    def save_model(self, request: HttpRequest, obj: Emergency, form: Any, change: bool) -> None:
        become(obj, emergency_set(enabled=True, reason=obj.reason, author=request.user.get_username()))

    @column("what", ordering="enabled")
    def state(self, row: Emergency) -> str:
        return coloured("declared" if row.enabled else "ended", {"declared": "danger", "ended": "success"})

    @action(description="Declare one", icon="emergency_home", permissions=["operate"])  # type: ignore[untyped-decorator]
    def declare(self, request: HttpRequest) -> HttpResponse:
        return redirect("admin:quotas_emergency_add")

    @post_action("End it", icon="check", permission="operate")
    def end(self, request: HttpRequest) -> HttpResponse:
        if selectors.emergency_find().enabled:
            emergency_set(enabled=False, author=request.user.get_username())
            messages.success(request, "The emergency is over: all requests are served again.")
        else:
            messages.info(request, "There is no emergency.")
        return redirect(self.list_url())


def _mode(report: QuotaReport) -> SafeString | str:
    return coloured(report.mode, _COLOURS) if report.windows or report.mode is Mode.EMERGENCY else "–"


def _bars(report: QuotaReport) -> list[Bar]:
    tightest = max(report.windows, key=lambda window: window.percent, default=None)
    return [
        Bar(
            title=f"{window.unit.value.capitalize()} {_NOW[window.period]}",
            text=f"{window.used + window.reserved:,} of {window.limit:,}",
            percent=f"{min(100.0, window.percent):.2f}",
            colour=_BARS[level_after(Level.NONE, window.percent, report.quota.soft_limits, slack=0.0)],
            hint=f"{window.name}: {window.used:,} used, {window.reserved:,} promised to requests that run",
            tightest=window is tightest,
        )
        for window in report.windows
    ]


def _history(model: LimitedModel) -> list[Past]:
    """Newest first. The first of all, and where its own were given up, is compared with the default limits of now."""
    rows, default = list(selectors.quota_revisions_list(model=model)), selectors.quota_default_load()
    values = [*(selectors.quota_value(row) or default for row in rows), default]
    return [
        Past(row, [_told(each) for each in limits.differences(old, new)])
        for row, (new, old) in zip(rows, pairwise(values), strict=True)
    ]


def _told(difference: limits.Difference) -> str:
    return f"{difference.name}: {_word(difference.before)} → {_word(difference.after)}"


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _number(value) if isinstance(value, int) or value is None else str(value)


def _number(value: int | None) -> str:
    return "no limit" if value is None else f"{value:,}"
