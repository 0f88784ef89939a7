"""The part of a version's page where operators set llama.cpp's parameters, a field each."""

from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminDecimalFieldWidget, UnfoldAdminIntegerFieldWidget, UnfoldAdminSelectWidget

from registry.errors import ApiError
from registry.models import Version
from registry.parameters import FIELDS, Choice, Kind, Number, Parameters, parameters_checked

_OPEN = ("", "chosen by the engine")
_MEANINGS = {
    "context_tokens": "The longest prompt and answer of one request together.",
    "lanes": "Short sequences that are computed together.",
    "lane_tokens": "What a short sequence may grow to; longer ones share the long context.",
    "threads": "Of the processor; never more than there are.",
    "batch_tokens": "The most tokens of one step.",
    "prefill_beside_decode": "The most prompt tokens of a step in which other answers grow.",
    "flash_attention": "A quantized kv_type needs it.",
    "kv_type": "How keys and values of the context are kept; smaller ones take less memory.",
    "unified": "Whether the lanes share one space of cells instead of having one each.",
    "n_gpu_layers": "Layers that the GPU computes; -1: all.",
    "rope_freq_base": "For models stretched beyond the context they were trained for.",
    "rope_freq_scale": "The same, as a factor.",
    "prompt_lookup": "Whether text that repeats itself or its prompt is guessed ahead.",
    "draft_cost": "What a guessed token adds to a step's time, as a part of it; at 1 none is guessed.",
}
"""For operators; whoever changes the engine reads more at :class:`inference.protocol.EngineParameters`."""


def _field(name: str, kind: Kind) -> forms.Field:
    allowed = f" {kind.allowed.capitalize()}." if isinstance(kind, Number) else ""
    help_text = _MEANINGS[name] + allowed
    common: dict[str, Any] = {"label": name, "required": False, "help_text": help_text}
    if isinstance(kind, Number):
        if kind.whole:
            return forms.IntegerField(widget=UnfoldAdminIntegerFieldWidget, **common)
        return forms.FloatField(widget=UnfoldAdminDecimalFieldWidget({"step": "any"}), **common)
    if isinstance(kind, Choice):
        choices = [_OPEN, *((word, word) for word in kind.words)]
        return forms.ChoiceField(choices=choices, widget=UnfoldAdminSelectWidget, **common)
    choices = [_OPEN, ("true", "yes"), ("false", "no")]
    switch = {"true": True, "false": False}
    return forms.TypedChoiceField(
        choices=choices, coerce=switch.__getitem__, empty_value=None, widget=UnfoldAdminSelectWidget, **common
    )


class _Parameters(forms.ModelForm):  # type: ignore[type-arg] # Django's own class has no parameters when it runs
    """After it was found valid, ``chosen`` is what the service takes."""

    class Meta:
        model = Version
        fields = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.chosen: Parameters = {}
        for name, value in self.instance.parameters.items():
            self.initial[name] = str(value).lower() if isinstance(value, bool) else value

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if not self.errors:
            values = {name: cleaned[name] for name in FIELDS if cleaned.get(name) not in (None, "")}
            try:
                self.chosen = parameters_checked(values)
            except ApiError as refusal:
                field = (refusal.param or "").rpartition(".")[2]
                self.add_error(field if field in self.fields else None, refusal.message)
        return cleaned


ParametersForm = type("ParametersForm", (_Parameters,), {name: _field(name, kind) for name, kind in FIELDS.items()})
