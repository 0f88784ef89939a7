"""The form in which operators limit a model: its fields, their bounds and what they say are those of the endpoint."""

from collections.abc import Iterator
from typing import Any

from django import forms
from rest_framework import serializers
from unfold.widgets import (
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from quotas import limits, selectors, services
from quotas.models import LimitedModel
from quotas.serializers import QuotaChange
from registry.errors import ApiError
from registry.rest import bounds_told

_SEPARATOR = "__"
"""``soft_limits.warn`` is ``soft_limits__warn`` in the form."""

_ABBREVIATIONS = {"ram": "RAM", "ssd": "SSD", "mb": "MiB", "gb": "GiB"}


def _fields(serializer: serializers.Serializer[Any], prefix: str = "") -> Iterator[tuple[str, forms.Field]]:
    for name, field in serializer.fields.items():
        if isinstance(field, serializers.Serializer):
            yield from _fields(field, f"{name}{_SEPARATOR}")
        else:
            yield prefix + name, _form_field(name, field)


def _form_field(name: str, field: serializers.Field[Any, Any, Any, Any]) -> forms.Field:
    shown: dict[str, Any] = {
        "label": _label(name),
        "help_text": field.help_text,
        "required": not (field.allow_null or isinstance(field, serializers.BooleanField)),
    }
    bounds = {"error_messages": bounds_told(", or nothing for no limit" if field.allow_null else "")}
    match field:
        case serializers.IntegerField(min_value=least, max_value=most):
            numbers = shown | bounds | {"min_value": least, "max_value": most}
            return forms.IntegerField(widget=UnfoldAdminIntegerFieldWidget, **numbers)
        case serializers.FloatField(min_value=least, max_value=most):
            numbers = shown | bounds | {"min_value": least, "max_value": most}
            return forms.FloatField(widget=UnfoldAdminDecimalFieldWidget, **numbers)
        case serializers.BooleanField():
            return forms.BooleanField(widget=UnfoldBooleanSwitchWidget, **shown)
        case serializers.ChoiceField(choices=choices):
            return forms.ChoiceField(choices=list(choices.items()), widget=UnfoldAdminSelectWidget, **shown)
        case serializers.CharField(max_length=longest):
            return forms.CharField(max_length=longest, empty_value=None, widget=UnfoldAdminTextInputWidget, **shown)
    raise TypeError(f"There is no form for {name}, {type(field).__name__}")


def _label(name: str) -> str:
    """“Max RAM MiB”."""
    words = [_ABBREVIATIONS.get(word, word) for word in name.split("_")]
    return " ".join([words[0].capitalize(), *words[1:]])


FIELDS = dict(_fields(QuotaChange()))


_Declared = type("_Declared", (forms.ModelForm,), dict(FIELDS))


class LimitsForm(_Declared):  # type: ignore[misc, valid-type] # its base is made when it runs
    """What is in force, to be changed. After it was found valid, ``changes`` is what the service takes."""

    fieldsets = (
        (
            "Limits",
            {
                "fields": (
                    ("hourly_token_limit", "daily_token_limit"),
                    ("hourly_request_limit", "daily_request_limit"),
                    ("burst_token_limit", "max_concurrent_requests"),
                    ("max_ram_mb", "max_ssd_gb"),
                    "on_database_loss",
                ),
                "description": "Empty: no limit. What was used in a window counts when its limit changes.",
            },
        ),
        (
            "Soft limits",
            {
                "fields": (
                    ("soft_limits__info", "soft_limits__warn"),
                    ("soft_limits__throttle", "soft_limits__aggressive_throttle"),
                    "throttling_enabled",
                )
            },
        ),
        (
            "Beyond them",
            {
                "fields": (
                    ("degradation_policy__pace", "degradation_policy__max_tokens_cap"),
                    ("degradation_policy__sibling", "degradation_policy__at_hard_limit"),
                    ("degradation_policy__queue_seconds", "degradation_policy__queue_length"),
                    "degradation_policy__emergency_priority",
                )
            },
        ),
        (None, {"fields": ("comment",)}),
    )

    comment = forms.CharField(label="Why", required=False, max_length=500, widget=UnfoldAdminTextInputWidget)

    class Meta:
        model = LimitedModel
        fields = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.changes: dict[str, Any] = {}
        quota = selectors.quota_find(model=self.instance).quota
        self.initial.update({name.replace(".", _SEPARATOR): value for name, value in limits.flat(quota).items()})

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if self.errors:
            return cleaned
        self.changes = {}
        for name in FIELDS.keys() & self.changed_data:
            part, _, inner = name.rpartition(_SEPARATOR)
            (self.changes.setdefault(part, {}) if part else self.changes)[inner] = cleaned[name]
        try:
            services.quota_checked(model=self.instance.name, changes=self.changes)
        except ApiError as refusal:
            field = (refusal.param or "").replace(".", _SEPARATOR)
            self.add_error(field if field in self.fields else None, refusal.message)
        else:
            if not self.changes:
                self.add_error(None, "Nothing is different from what is in force.")
        return cleaned
