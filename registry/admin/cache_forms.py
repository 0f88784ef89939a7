"""The form in which operators divide the cache."""

from typing import Any

import msgspec
from django import forms
from unfold.widgets import (
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from registry.cache import selectors, services
from registry.cache.configuration import DEFAULT_PRIORITY, HIGHEST_PRIORITY, CacheAllocation, Strategy
from registry.cache.eviction import EvictionPolicy
from registry.cache.models import CacheRevision
from registry.errors import ApiError
from registry.rest import bounds_told

_STRATEGIES = {
    Strategy.FAIR_SHARE: "Fair share: equal parts",
    Strategy.PROPORTIONAL: "Proportional: by prompt tokens of the last 24 hours",
    Strategy.PRIORITY_BASED: "Priority based: by the priorities below",
    Strategy.DYNAMIC: "Dynamic: by the demand of the last minutes",
}
_POLICIES = {
    EvictionPolicy.LRU: "LRU: whose block was not used for the longest time",
    EvictionPolicy.LFU: "LFU: whose block was used least often",
    EvictionPolicy.SMALLEST_MODEL_FIRST: "Smallest model first: whose file is smallest",
    EvictionPolicy.ROUND_ROBIN: "Round robin: one after the other",
}
_SIZES = ("global_cache_size_gb", "global_cache_ram_gb", "global_cache_ssd_gb")
_PLAIN = (*_SIZES, "allocation_strategy", "global_eviction_policy")
_QUOTAS = ("max_ram_mb", "max_ssd_gb")


def _gib(label: str, help_text: str) -> forms.FloatField:
    return forms.FloatField(
        label=label,
        help_text=help_text,
        required=False,
        min_value=0,
        error_messages=bounds_told(),
        widget=UnfoldAdminDecimalFieldWidget,
    )


class AllocationForm(forms.ModelForm):  # type: ignore[type-arg] # Django's own class has no parameters when it runs
    """What is in force, to be changed. After it was found valid, ``changes`` is what the service takes."""

    global_cache_size_gb = _gib("All, in GiB", "RAM and SSD together, on each node.")
    global_cache_ram_gb = _gib("RAM, in GiB", "Empty: what the whole leaves, or a quarter of the memory budget.")
    global_cache_ssd_gb = _gib("SSD, in GiB", "Empty: what the whole leaves, or a tenth of the free disk. 0: none.")
    allocation_strategy = forms.ChoiceField(
        label="Strategy", choices=list(_STRATEGIES.items()), widget=UnfoldAdminSelectWidget
    )
    global_eviction_policy = forms.ChoiceField(
        label="Eviction policy",
        choices=list(_POLICIES.items()),
        widget=UnfoldAdminSelectWidget,
        help_text="Who gives way when all of it is taken.",
    )
    model_priorities = forms.CharField(
        label="Priorities",
        required=False,
        widget=UnfoldAdminTextareaWidget({"rows": 4}),
        help_text=f"A model's id and 0–{HIGHEST_PRIORITY}, one on each line; others have {DEFAULT_PRIORITY}.",
    )
    max_ram_mb = forms.IntegerField(
        label="RAM, in MiB",
        required=False,
        min_value=0,
        error_messages=bounds_told(),
        widget=UnfoldAdminIntegerFieldWidget,
    )
    max_ssd_gb = _gib("SSD, in GiB", "")
    comment = forms.CharField(label="Why", required=False, max_length=500, widget=UnfoldAdminTextInputWidget)

    fieldsets = (
        ("Size on each node", {"fields": _SIZES}),
        ("Rules", {"fields": ("allocation_strategy", "model_priorities", "global_eviction_policy")}),
        ("The most that one model gets", {"fields": (_QUOTAS,)}),
        (None, {"fields": ("comment",)}),
    )

    class Meta:
        model = CacheRevision
        fields = ("comment",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._config = selectors.cache_config_load()
        self.changes: dict[str, Any] = {}
        self.initial.update(_initial(self._config))

    def clean_model_priorities(self) -> dict[str, int]:
        lines = str(self.cleaned_data["model_priorities"]).splitlines()
        return dict(_priority(line) for line in lines if line.strip())

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if self.errors:
            return cleaned
        quota = {name: cleaned[name] for name in _QUOTAS}
        self.changes = {name: cleaned[name] for name in (*_PLAIN, "model_priorities")}
        self.changes["per_model_quota"] = msgspec.to_builtins(self._config.per_model_quota) | quota
        try:
            changed = services.cache_allocation_changed(config=self._config, changes=self.changes)
        except ApiError as refusal:
            field = (refusal.param or "").partition(".")[0]
            self.add_error(field if field in self.fields else None, refusal.message)
        else:
            if changed == self._config:
                self.add_error(None, "Nothing is different from what is in force.")
        return cleaned


def _initial(config: CacheAllocation) -> dict[str, Any]:
    priorities = "\n".join(f"{model} {priority}" for model, priority in sorted(config.model_priorities.items()))
    return {
        **{name: getattr(config, name) for name in _PLAIN},
        **{name: getattr(config.per_model_quota, name) for name in _QUOTAS},
        "model_priorities": priorities,
    }


def _priority(line: str) -> tuple[str, int]:
    words = line.replace("=", " ").split()
    if len(words) != 2 or not words[1].isascii() or not words[1].isdigit() or int(words[1]) > HIGHEST_PRIORITY:
        raise forms.ValidationError(
            f"'{line.strip()}': write a model's id, a space, and a number up to {HIGHEST_PRIORITY}."
        )
    return words[0], int(words[1])
