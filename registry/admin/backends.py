"""Backends elsewhere: where some versions are answered."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.widgets import UnfoldAdminIntegerFieldWidget, UnfoldAdminPasswordWidget, UnfoldAdminTextInputWidget

from registry.backends import selectors, services
from registry.capability_words import capabilities_checked
from registry.errors import ApiError
from registry.models import RemoteBackend
from registry.staff import HEALTH_COLOURS, ServiceAdmin, become, coloured, column, labels


class KeyForm(forms.ModelForm):  # type: ignore[type-arg] # Django's own class has no parameters when it runs
    """Of a backend that is there: all but its key is its version's content, and stays."""

    api_key = forms.CharField(
        label="API key",
        required=False,
        strip=False,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "off"}),
        help_text="Kept encrypted, never shown again. Left empty, it stays as it is.",
    )

    class Meta:
        model = RemoteBackend
        fields = ()

    def _post_clean(self) -> None:
        """The row is not validated: none of its columns is typed, and the service makes it."""


class RegisterForm(KeyForm):
    id = forms.CharField(max_length=200, widget=UnfoldAdminTextInputWidget, help_text="As clients will ask for it.")
    number = forms.CharField(label="Version", initial="1.0.0", max_length=32, widget=UnfoldAdminTextInputWidget)
    url = forms.CharField(
        label="URL",
        widget=UnfoldAdminTextInputWidget,
        help_text="What its paths follow, such as https://api.example.com/v1.",
    )
    model = forms.CharField(max_length=200, widget=UnfoldAdminTextInputWidget, help_text="How it is called there.")
    capabilities = forms.CharField(
        initial=" ".join(services.USUAL_CAPABILITIES),
        widget=UnfoldAdminTextInputWidget,
        help_text="All that it can do, as words: chat, completion, tools, embedding, arabic_nlp.",
    )
    context_length = forms.IntegerField(
        required=False, min_value=1, widget=UnfoldAdminIntegerFieldWidget, help_text="Tokens; empty: not known."
    )

    def clean_capabilities(self) -> list[str]:
        words = str(self.cleaned_data["capabilities"]).replace(",", " ").split()
        try:
            return capabilities_checked(words)
        except ApiError as refusal:
            raise forms.ValidationError(refusal.message) from refusal


@admin.register(RemoteBackend)
class RemoteBackendAdmin(ServiceAdmin):
    empty_hint = (
        "A model may be an OpenAI-compatible URL instead of a GGUF: a vLLM, a llama-server, a cloud. Add it here."
    )
    list_display = ("title", "url", "model", "health_label", "key_label")
    list_filter = ("version__health",)
    search_fields = ("version__model__name", "url", "model")
    search_help_text = "Model, URL, or how it is called there"
    list_select_related = ("version__model",)
    add_fieldsets = (
        (None, {"fields": (("id", "number"), ("url", "model"), "api_key", ("capabilities", "context_length"))}),
    )
    fieldsets = (
        (None, {"fields": (("title", "health_label"), "health_reason", ("url", "model"), "shown_capabilities")}),
        ("Key", {"fields": (("key_label", "keyed_at"), "api_key")}),
    )
    _fixed = ("title", "health_label", "health_reason", "url", "model", "shown_capabilities", "key_label", "keyed_at")

    def get_queryset(self, request: HttpRequest) -> QuerySet[RemoteBackend]:
        return selectors.backends_list()

    def get_form(self, request: HttpRequest, obj: RemoteBackend | None = None, change: bool = False, **kw: Any) -> Any:
        return super().get_form(
            request, obj, change, **{**kw, "form": KeyForm if obj else RegisterForm, "fields": None}
        )

    def get_fieldsets(self, request: HttpRequest, obj: RemoteBackend | None = None) -> Any:
        return self.fieldsets if obj else self.add_fieldsets

    def get_readonly_fields(self, request: HttpRequest, obj: RemoteBackend | None = None) -> list[str]:
        return list(self._fixed) if obj else []

    def save_model(self, request: HttpRequest, obj: RemoteBackend, form: Any, change: bool) -> None:
        values = form.cleaned_data
        if not change:
            version = services.backend_register(
                name=values["id"],
                version=values["number"],
                url=values["url"],
                model=values["model"],
                api_key=values["api_key"],
                capabilities=values["capabilities"],
                context_length=values["context_length"],
            )
            become(obj, selectors.backend_find(name=version.model.name, number=version.number))
        elif values["api_key"]:
            version = obj.version
            services.backend_set_key(name=version.model.name, number=version.number, api_key=values["api_key"])

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Its version goes with it, though nobody may delete those by themselves."""
        shown, counts, _, protected = super().get_deleted_objects(objs, request)
        return shown, counts, set(), protected

    def delete_model(self, request: HttpRequest, obj: RemoteBackend) -> None:
        services.backend_forget(name=obj.version.model.name, number=obj.version.number)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[RemoteBackend]) -> None:
        for backend in queryset:
            self.delete_model(request, backend)

    @column("model", ordering="version__model__name")
    def title(self, backend: RemoteBackend) -> str:
        return str(backend.version)

    @column("health", ordering="version__health")
    def health_label(self, backend: RemoteBackend) -> str:
        return coloured(backend.version.health, HEALTH_COLOURS, hint=backend.version.health_reason)

    @column("reason")
    def health_reason(self, backend: RemoteBackend) -> str:
        return backend.version.health_reason or "–"

    @column("API key")
    def key_label(self, backend: RemoteBackend) -> str:
        return "kept" if backend.has_key else "none"

    @column("capabilities")
    def shown_capabilities(self, backend: RemoteBackend) -> str:
        return labels(backend.version.capabilities)
