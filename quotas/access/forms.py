"""The form in which admins make and change API keys."""

from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminTextareaWidget

from quotas.access import services
from quotas.caller_limits import CONCURRENT, WINDOWS
from quotas.ledger import Unit
from quotas.models import ApiKey
from registry.errors import ApiError

NONE = "-"
"""Stands for an empty list; an empty field for all."""

LIMIT_ROWS = (
    *zip(
        (name for name, (unit, _) in WINDOWS.items() if unit is Unit.REQUESTS),
        (name for name, (unit, _) in WINDOWS.items() if unit is Unit.TOKENS),
        strict=True,
    ),
    CONCURRENT,
)
LIMITS_HINT = "Empty: no limit. What was used in a window counts when its limit changes."


class _Lines(forms.CharField):
    """Names, one on each line."""

    widget = UnfoldAdminTextareaWidget({"rows": 4})

    def prepare_value(self, value: Any) -> Any:
        if value is None or isinstance(value, str):  # all; or what was typed, shown again
            return value
        return "\n".join(value) or NONE

    def clean(self, value: Any) -> list[str] | None:
        lines = [line.strip() for line in str(super().clean(value) or "").splitlines() if line.strip()]
        if lines == [NONE]:
            return []
        return lines or None

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool(self.clean(data) != initial)


class KeyForm(forms.ModelForm):  # type: ignore[type-arg] # Django's own class has no parameters when it runs
    allowed_models = _Lines(
        required=False, help_text=f"Ids, one on each line. Empty: all; a single {NONE}: none by name."
    )
    allowed_routes = _Lines(
        required=False,
        help_text=f"One on each line; there is {', '.join(services.ROUTES)}. Empty: all; a single {NONE}: none.",
    )

    class Meta:
        model = ApiKey
        fields = ("name",)

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        try:
            services.key_settings_checked({name: cleaned[name] for name in services.KEY_SETTINGS if name in cleaned})
        except ApiError as refusal:
            self.add_error(refusal.param if refusal.param in self.fields else None, refusal.message)
        return cleaned
