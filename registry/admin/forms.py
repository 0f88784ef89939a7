"""The forms of a model's pages."""

from typing import Any

from django import forms
from unfold.forms import BaseDialogForm
from unfold.widgets import UnfoldAdminTextInputWidget

from registry.capability_words import capabilities_checked
from registry.errors import ApiError
from registry.models import Model


class RegisterDialog(BaseDialogForm):  # type: ignore[misc] # Unfold has no types
    id = forms.CharField(label="Id", max_length=200, widget=UnfoldAdminTextInputWidget)
    version = forms.CharField(initial="1.0.0", max_length=32, widget=UnfoldAdminTextInputWidget)
    path = forms.CharField(
        widget=UnfoldAdminTextInputWidget,
        help_text="A GGUF file or its folder, under one of the models directories; relative to the project's root.",
    )


class ModelForm(forms.ModelForm):  # type: ignore[type-arg] # Django's own class has no parameters when it runs
    """Capabilities are typed as words; they are kept as a list."""

    extra_capabilities = forms.CharField(
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="What the GGUF can't say about itself, as words: arabic_nlp, legal. Requests may ask for them.",
    )

    class Meta:
        model = Model
        fields = ("display_name", "enabled", "preload", "replicas", "extra_capabilities")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["extra_capabilities"] = ", ".join(self.instance.extra_capabilities or [])

    def clean_extra_capabilities(self) -> list[str]:
        words = str(self.cleaned_data["extra_capabilities"]).replace(",", " ").split()
        try:
            return capabilities_checked(words)
        except ApiError as refusal:
            raise forms.ValidationError(refusal.message) from refusal
