"""Versions: what a model consists of, which is read-only, how it is computed, and what was measured of that."""

from typing import Any, ClassVar

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import mark_safe
from unfold.admin import TabularInline

from registry import editing, services, tuning
from registry.admin.parameters import ParametersForm
from registry.models import Tuning, Version
from registry.presentation import count_text, size_text
from registry.selectors import shown_path
from registry.staff import (
    HEALTH_COLOURS,
    ReadOnlyAdmin,
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


class VersionInline(TabularInline):  # type: ignore[misc] # Unfold has no types
    model = Version
    fk_name = "model"
    extra = 0
    can_delete = False
    hide_title = True
    tab = False
    ordering = ("-major", "-minor", "-patch")
    fields = ("number", "serves", "health_label", "size", "weights", "quantization", "file", "created_at")
    readonly_fields = fields

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @column("version")
    def number(self, version: Version) -> str:
        page = reverse("admin:registry_version_change", args=[version.pk])
        return format_html('<a href="{}" class="text-primary-600 dark:text-primary-500">{}</a>', page, version.number)

    @column("promoted")
    def serves(self, version: Version) -> str:
        return _promoted_mark(version)

    @column("health")
    def health_label(self, version: Version) -> str:
        return coloured(version.health, HEALTH_COLOURS, hint=version.health_reason)

    @column("file")
    def file(self, version: Version) -> str:
        return _file_state(version)

    @column("size")
    def size(self, version: Version) -> str:
        return unbroken(size_text(version.size_bytes))

    @column("parameters")
    def weights(self, version: Version) -> str:
        """Not named as its column: what is named like the model's field would be shown as the field itself."""
        return count_text(version.parameter_count) or "–"


class TuningInline(TabularInline):  # type: ignore[misc] # Unfold has no types
    """What was measured to be fastest, by machine."""

    model = Tuning
    verbose_name_plural = "Measured"
    extra = 0
    can_delete = False
    tab = False
    fields = ("machine", "chosen", "figures", "holds_label", "measured_at")
    readonly_fields = fields

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @column("faster than the engine's choice")
    def chosen(self, tuning: Tuning) -> str:
        return _parameters_text(tuning.parameters) or "nothing"

    @column("a step, alone and beside a prompt")
    def figures(self, tuning: Tuning) -> str:
        lines = (
            f"{1000 * each['decode_seconds']:.3g} ms, {1000 * each['mixed_seconds']:.3g} ms: "
            f"{_parameters_text(each['parameters'])}"
            for each in tuning.measured
        )
        return format_html_join(mark_safe("<br>"), "{}", ((line,) for line in lines)) or "–"

    @column("in use")
    def holds_label(self, tuning: Tuning) -> str:
        return "yes" if tuning.holds else "no: parameters were changed since"


@admin.register(Version)
class VersionAdmin(ReadOnlyAdmin):
    empty_hint = "Every model has at least one version; discovery makes it."
    list_display = ("title", "promoted", "health_label", "file", "size", "weights", "quantization", "source")
    list_filter = ("health", "file_state", "source", "architecture", "quantization")
    search_fields = ("model__name", "path", "sha256", "architecture", "quantization")
    search_help_text = "Model, path, SHA-256, architecture or quantization"
    ordering = ("model__name", "-major", "-minor", "-patch")
    actions = ("promote_selected",)
    actions_detail = ("promote", "measure_again")
    inlines: ClassVar = [TuningInline]
    actions_row = ("promote",)
    fieldsets = (
        (None, {"fields": (("model", "number", "promoted"), ("health_label", "health_checked_at"), "health_reason")}),
        (
            "Content",
            {
                "fields": (
                    ("architecture", "weights", "quantization"),
                    ("context", "size", "file"),
                    "shown_capabilities",
                    "shown_path",
                    "shown_files",
                    "sha256",
                    ("source", "created_at"),
                )
            },
        ),
        (
            "llama.cpp",
            {
                "fields": (
                    ("context_tokens", "threads"),
                    ("lanes", "lane_tokens"),
                    ("batch_tokens", "prefill_beside_decode"),
                    ("flash_attention", "kv_type"),
                    ("unified", "n_gpu_layers"),
                    ("rope_freq_base", "rope_freq_scale"),
                    ("prompt_lookup", "draft_cost"),
                ),
                "description": "What is empty is chosen, by measurement where that helps. After a change a running "
                "worker finishes its requests and ends; the next load has the new ones.",
            },
        ),
    )
    form = ParametersForm

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Of the parameters; the rest stays read-only for everybody."""
        return self.has_operate_permission(request, obj)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if self.has_operate_permission(request, obj):
            return self.fieldsets
        return (*self.fieldsets[:-1], ("llama.cpp", {"fields": ("shown_parameters",)}))

    def save_model(self, request: HttpRequest, obj: Version, form: Any, change: bool) -> None:
        editing.version_update(name=obj.model.name, number=obj.number, parameters=form.chosen)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Version]:
        rows: QuerySet[Version] = super().get_queryset(request)
        return rows.select_related("model")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        own = ["number", "promoted", "health_label", "file", "weights", "size", "context"]
        own += ["shown_capabilities", "shown_path", "shown_files", "shown_parameters"]
        return [*super().get_readonly_fields(request, obj), *own]

    @column("version", ordering="model__name")
    def title(self, version: Version) -> str:
        return str(version)

    @column("number")
    def number(self, version: Version) -> str:
        return version.number

    @column("promoted")
    def promoted(self, version: Version) -> str:
        return _promoted_mark(version)

    @column("health", ordering="health")
    def health_label(self, version: Version) -> str:
        return coloured(version.health, HEALTH_COLOURS, hint=version.health_reason)

    @column("file", ordering="file_state")
    def file(self, version: Version) -> str:
        return _file_state(version)

    @column("size", ordering="size_bytes")
    def size(self, version: Version) -> str:
        return unbroken(size_text(version.size_bytes))

    @column("parameters", ordering="parameter_count")
    def weights(self, version: Version) -> str:
        return count_text(version.parameter_count) or "–"

    @column("context")
    def context(self, version: Version) -> str:
        return f"{version.context_length:,}\u00a0tokens" if version.context_length else "–"

    @column("capabilities")
    def shown_capabilities(self, version: Version) -> str:
        return labels(version.capabilities)

    @column("path")
    def shown_path(self, version: Version) -> str:
        return shown_path(version.path)

    @column("files")
    def shown_files(self, version: Version) -> str:
        return "\n".join(shown_path(file) for file in version.files) or "–"

    @column("parameters")
    def shown_parameters(self, version: Version) -> str:
        return _parameters_text(version.parameters) or "chosen by the engine"

    @post_action("Promote", icon="publish", permission="operate")
    def promote(self, request: HttpRequest, object_id: str) -> HttpResponse:
        version = get_object_or_404(Version.objects.select_related("model"), pk=object_id)
        with refusals_shown(request):
            _promote(version)
            messages.success(request, f"'{version.model.name}' now means {version}.")
        return self.back(request)

    @post_action("Measure again", icon="speed", permission="operate")
    def measure_again(self, request: HttpRequest, object_id: str) -> HttpResponse:
        version = get_object_or_404(Version.objects.select_related("model"), pk=object_id)
        with refusals_shown(request):
            tuning.tunings_forget(name=version.model.name, number=version.number)
            messages.success(request, f"After its next load it is measured how {version} is computed fastest.")
        return self.back(request)

    @bulk_action("Promote selected versions", permission="operate")
    def promote_selected(self, request: HttpRequest, versions: QuerySet[Version]) -> None:
        counted(request, each(request, versions, _promote), "promoted")


def _parameters_text(parameters: dict[str, Any]) -> str:
    return ", ".join(f"{name} {str(value).lower()}" for name, value in parameters.items())


def _promoted_mark(version: Version) -> str:
    """Not a boolean: a red cross on every older version would look like a fault."""
    return coloured("promoted", {"promoted": "primary"}) if version.model.promoted_id == version.pk else "–"


def _file_state(version: Version) -> str:
    """Written alike, whatever the choice's own label."""
    label = str(version.get_file_state_display())
    return label[:1].upper() + label[1:]


def _promote(version: Version) -> None:
    services.version_promote(name=version.model.name, number=version.number)
