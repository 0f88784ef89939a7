"""Models: what clients can ask for."""

from typing import Any, ClassVar

from django.conf import settings
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from unfold.decorators import action

from registry import editing, listing, services
from registry.admin.forms import ModelForm, RegisterDialog
from registry.admin.health import check, shown_health
from registry.admin.schedules import ScheduleInline
from registry.admin.versions import VersionInline
from registry.errors import ApiError
from registry.models import Model, Replica, Version
from registry.presentation import count_text, size_text
from registry.schedules.services import schedules_evaluate
from registry.selectors import shown_path
from registry.services import ScanReport
from registry.staff import (
    HEALTH_COLOURS,
    STATE_COLOURS,
    ServiceAdmin,
    bulk_action,
    coloured,
    column,
    counted,
    each,
    labels,
    post_action,
    refusals_shown,
    unbroken,
)


@admin.register(Model)
class ModelAdmin(ServiceAdmin):
    form = ModelForm
    inlines: ClassVar = [VersionInline, ScheduleInline]
    empty_hint = "Put a GGUF into the models directory; it is listed here as soon as its last byte is written."
    list_display = ("title", "state", "health", "version", "size", "context", "enabled", "default", "uses")
    list_filter = ("enabled", "preload", "promoted__health", "promoted__architecture", "promoted__quantization")
    search_fields = ("name", "display_name", "promoted__architecture", "promoted__quantization", "promoted__path")
    search_help_text = "Id, name, architecture, quantization or path"
    actions = ("load_selected", "unload_selected", "enable_selected", "disable_selected", "check_selected")
    actions_list = ("scan_now", "register_model")
    actions_row = ("load", "unload", "set_default")
    actions_detail = ("load", "unload", "set_default", "check_health")
    change_form_after_template = "admin/model_health.html"
    fieldsets = (
        (None, {"fields": ("name", "display_name", ("enabled", "preload", "replicas"), "extra_capabilities")}),
        (
            "What it is",
            {
                "fields": (
                    ("state", "health", "default"),
                    "health_reason",
                    ("version", "size", "parameters"),
                    ("architecture", "quantization", "context"),
                    ("capabilities", "aliases"),
                    ("uses", "created_at"),
                    "path",
                )
            },
        ),
    )
    readonly_fields = (
        "name", "state", "health", "health_reason", "version", "size", "parameters", "architecture", "quantization",
        "context", "capabilities", "aliases", "default", "uses", "created_at", "path",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Model]:
        """Aliases are shown on the page of the model they mean."""
        rows: QuerySet[Model] = super().get_queryset(request)
        rows = rows.filter(alias_of=None).select_related("promoted", "usage").prefetch_related("versions")
        return rows.annotate(state=listing.state_of_promoted())

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> Any:
        model = self.get_object(request, object_id)
        shown = shown_health(model) if model is not None else {}
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **shown})

    def has_add_permission(self, request: HttpRequest) -> bool:
        """A model comes with a file: by discovery, or by the button that registers one."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Only what has vanished can be forgotten; the rest would be discovered again at once."""
        allowed: bool = super().has_delete_permission(request, obj)
        return allowed and obj is not None and editing.forgettable(model=obj)

    def save_model(self, request: HttpRequest, obj: Model, form: Any, change: bool) -> None:
        changes = {field: form.cleaned_data[field] for field in form.changed_data}
        editing.model_update(name=obj.name, **changes)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """Its warm hours, which may last already."""
        super().save_related(request, form, formsets, change)
        schedules_evaluate()

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Its versions and replicas go with it, though nobody may delete those by themselves."""
        shown, counts, _, protected = super().get_deleted_objects(objs, request)
        return shown, counts, set(), protected

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        editing.model_forget(name=obj.name)

    # Columns

    @column("model", ordering="name")
    def title(self, model: Model) -> str:
        shown = _shown(model)
        kind = (shown.architecture, count_text(shown.parameter_count), shown.quantization) if shown else ()
        about = unbroken(" · ".join(part for part in kind if part))
        return format_html(
            '<span class="block">{}</span><span class="text-subtle text-xs">{}</span>', model.name, about
        )

    @column("state", ordering="state")
    def state(self, model: Any) -> str:
        return coloured(model.state, STATE_COLOURS)

    @column("health", ordering="promoted__health")
    def health(self, model: Model) -> str:
        shown = _shown(model)
        return coloured(shown.health, HEALTH_COLOURS, hint=shown.health_reason) if shown else "–"

    @column("reason")
    def health_reason(self, model: Model) -> str:
        shown = _shown(model)
        return (shown.health_reason if shown else "it has no version") or "–"

    @column("version")
    def version(self, model: Model) -> str:
        return model.promoted.number if model.promoted else "–"

    @column("size", ordering="promoted__size_bytes")
    def size(self, model: Model) -> str:
        shown = _shown(model)
        return unbroken(size_text(shown.size_bytes)) if shown else "–"

    @column("parameters", ordering="promoted__parameter_count")
    def parameters(self, model: Model) -> str:
        shown = _shown(model)
        return (count_text(shown.parameter_count) if shown else None) or "–"

    @column("architecture")
    def architecture(self, model: Model) -> str:
        shown = _shown(model)
        return (shown.architecture if shown else "") or "–"

    @column("quantization", ordering="promoted__quantization")
    def quantization(self, model: Model) -> str:
        shown = _shown(model)
        return (shown.quantization if shown else "") or "–"

    @column("context", ordering="promoted__context_length")
    def context(self, model: Model) -> str:
        shown = _shown(model)
        return f"{shown.context_length:,}\u00a0tokens" if shown and shown.context_length else "–"

    @column("default", ordering="is_default")
    def default(self, model: Model) -> str:
        """Not a boolean: a red cross on every other model would look like a fault."""
        return coloured("default", {"default": "primary"}) if model.is_default else "–"

    @column("requests", ordering="usage__use_count")
    def uses(self, model: Model) -> str:
        return f"{model.usage.use_count if hasattr(model, 'usage') else 0:,}"

    @column("capabilities")
    def capabilities(self, model: Model) -> str:
        shown = _shown(model)
        return labels(sorted({*(shown.capabilities if shown else ()), *model.extra_capabilities}))

    @column("other names")
    def aliases(self, model: Model) -> str:
        return ", ".join(model.aliases.values_list("name", flat=True)) or "–"

    @column("path")
    def path(self, model: Model) -> str:
        shown = _shown(model)
        return shown_path(shown.path) if shown else "–"

    # Buttons

    @post_action("Scan now", icon="search")
    def scan_now(self, request: HttpRequest) -> HttpResponse:
        with refusals_shown(request):
            report = services.models_scan(
                models_dirs=settings.NOPENAI.models_dirs, starter_model=settings.NOPENAI.starter_model
            )
            messages.success(request, _scan_told(report))
        return self.back(request)

    @action(  # type: ignore[untyped-decorator] # Unfold has no types
        description="Register…",
        icon="add",
        permissions=["change"],
        dialog={
            "title": "Register a model",
            "description": "A new model, or a new version of a known one. Files in the models directories are found "
            "without this.",
            "form_class": RegisterDialog,
            "form_submit_text": "Register",
        },
    )
    def register_model(self, request: HttpRequest, form: RegisterDialog) -> HttpResponse:
        values = form.cleaned_data
        try:
            version = services.model_register(
                name=values["id"],
                version=values["version"],
                path=values["path"],
                models_dirs=settings.NOPENAI.models_dirs,
            )
        except ApiError as refusal:
            form.add_error(refusal.param if refusal.param in form.fields else None, refusal.message)
            dialog = self.register_model.dialog
            return TemplateResponse(request, "unfold/helpers/dialog.html", {"dialog": dialog, "form": form})
        messages.success(request, f"{version} is registered.")
        page = reverse("admin:registry_model_change", args=[version.model_id])
        return HttpResponse(headers={"HX-Redirect": page})

    @post_action("Load", icon="play_arrow")
    def load(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._desire_one(request, object_id, Replica.Desired.RUNNING, "is being loaded and stays loaded")

    @post_action("Unload", icon="stop")
    def unload(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._desire_one(request, object_id, Replica.Desired.STOPPED, "is being unloaded")

    @post_action("Set default", icon="star")
    def set_default(self, request: HttpRequest, object_id: str) -> HttpResponse:
        model = get_object_or_404(Model, pk=object_id)
        with refusals_shown(request):
            services.model_set_default(name=model.name)
            messages.success(request, f"{model.name} answers requests that name no model.")
        return self.back(request)

    @post_action("Check health", icon="monitor_heart")
    def check_health(self, request: HttpRequest, object_id: str) -> HttpResponse:
        model = get_object_or_404(Model, pk=object_id)
        with refusals_shown(request):
            check(model)
            promoted = Model.objects.select_related("promoted").get(pk=model.pk).promoted
            messages.success(request, f"{model.name} is {promoted.health if promoted else 'not promoted'}.")
        return self.back(request)

    @bulk_action("Check health of selected models", permission="change")
    def check_selected(self, request: HttpRequest, models: QuerySet[Model]) -> None:
        counted(request, each(request, models, check), "checked")

    @bulk_action("Load selected models", permission="change")
    def load_selected(self, request: HttpRequest, models: QuerySet[Model]) -> None:
        done = each(request, models, lambda model: _desire(model, Replica.Desired.RUNNING))
        counted(request, done, "to be loaded")

    @bulk_action("Unload selected models", permission="change")
    def unload_selected(self, request: HttpRequest, models: QuerySet[Model]) -> None:
        done = each(request, models, lambda model: _desire(model, Replica.Desired.STOPPED))
        counted(request, done, "to be unloaded")

    @bulk_action("Enable selected models", permission="change")
    def enable_selected(self, request: HttpRequest, models: QuerySet[Model]) -> None:
        counted(request, each(request, models, lambda model: _enable(model, True)), "enabled")

    @bulk_action("Disable selected models", permission="change")
    def disable_selected(self, request: HttpRequest, models: QuerySet[Model]) -> None:
        counted(request, each(request, models, lambda model: _enable(model, False)), "disabled")

    def _desire_one(self, request: HttpRequest, object_id: str, desired: Replica.Desired, told: str) -> HttpResponse:
        model = get_object_or_404(Model, pk=object_id)
        with refusals_shown(request):
            _desire(model, desired)
            messages.success(request, f"{model.name} {told}.")
        return self.back(request)


def _shown(model: Model) -> Version | None:
    """The promoted version; while there is none the newest, whose health says why."""
    return model.promoted or next(iter(model.versions.all()), None)


def _desire(model: Model, desired: Replica.Desired) -> None:
    version = listing.version_find(name=model.name, number=None)
    services.replica_desire(node=None, version_pk=version.pk, desired=desired)


def _enable(model: Model, enabled: bool) -> None:
    services.model_enable(name=model.name, enabled=enabled)


def _scan_told(report: ScanReport) -> str:
    new = [*report.discovered, *report.versions]
    told = f"{report.files} files looked at. " + (f"New: {', '.join(new)}." if new else "Nothing is new.")
    return told + "".join(f" {model_id} can't be used: {why}." for model_id, why in report.unusable.items())
