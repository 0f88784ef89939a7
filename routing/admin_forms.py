"""The form in which operators set a route's rules."""

from collections.abc import Iterable
from typing import Any

import msgspec
from django import forms
from unfold.widgets import (
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectMultipleWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from registry.errors import ApiError
from registry.models import Model
from registry.rest import bounds_told
from routing import selectors, services
from routing.config import AUTO, HIGHEST_WEIGHT, Rollout, Routing, Rules, StickyBy, Strategy
from routing.models import RoutingRevision

STRATEGIES = {
    Strategy.CACHE_AWARE: "Cache aware: who holds most of the prompt, unless its queue costs more",
    Strategy.LEAST_LOADED: "Least loaded: who has least work for its size",
    Strategy.ROUND_ROBIN: "Round robin: each in turn",
    Strategy.LATENCY_BASED: "Latency based: who has lately answered soonest",
    Strategy.QUOTA_AWARE: "Quota aware: who has most left of its limits",
    Strategy.AFFINITY_BASED: "Affinity based: where the session was before",
    Strategy.RANDOM: "Random: anyone",
    Strategy.WEIGHTED_RANDOM: "Weighted random: by the weights below, or by score",
}
_STICKY_BY = {StickyBy.SESSION: "Session (X-Session-ID)", StickyBy.KEY: "API key"}

_CHECKS = ("enable_health_checks", "enable_quota_checks", "enable_cache_optimization", "warm_only")
_NUMBERS = ("max_load_threshold", "min_cache_hit_rate", "affinity_timeout_sec")
_RETRIES = ("max_retries", "retry_delay_ms", "hedge_delay_ms")
_MODELS = ("candidates", "fallback_models", "model_weights")
_TEST = (
    "ab_test_enabled",
    "ab_test_model_a",
    "ab_test_model_b",
    "ab_test_split",
    "ab_test_sticky_by",
    "ab_test_mirror",
)
_ROLLOUT = tuple(f"rollout_{name}" for name in Rollout.__struct_fields__)
"""In the order of the page."""
_FIELDS = ("strategy", *_NUMBERS, *_MODELS, *_CHECKS, *_RETRIES, *_TEST)


def _number(label: str, help_text: str, low: float, high: float, *, required: bool = True) -> forms.FloatField:
    return forms.FloatField(
        label=label,
        help_text=help_text,
        required=required,
        min_value=low,
        max_value=high,
        error_messages=bounds_told(),
        widget=UnfoldAdminDecimalFieldWidget,
    )


def _whole(label: str, help_text: str, high: int, *, low: int = 0, required: bool = True) -> forms.IntegerField:
    return forms.IntegerField(
        label=label,
        required=required,
        help_text=help_text,
        min_value=low,
        max_value=high,
        error_messages=bounds_told(),
        widget=UnfoldAdminIntegerFieldWidget,
    )


def _switch(label: str, help_text: str = "") -> forms.BooleanField:
    return forms.BooleanField(label=label, help_text=help_text, required=False, widget=UnfoldBooleanSwitchWidget)


def _choice(label: str, choices: dict[Any, str]) -> forms.ChoiceField:
    return forms.ChoiceField(
        label=label, choices=[(each.value, text) for each, text in choices.items()], widget=UnfoldAdminSelectWidget
    )


def _model(label: str) -> forms.ChoiceField:
    return forms.ChoiceField(label=label, required=False, widget=UnfoldAdminSelectWidget)


def _lines(label: str, help_text: str) -> forms.CharField:
    return forms.CharField(
        label=label, help_text=help_text, required=False, widget=UnfoldAdminTextareaWidget({"rows": 4})
    )


class RulesForm(forms.ModelForm):  # type: ignore[type-arg] # Django's own class has no parameters when it runs
    """The rules of one route as they are in force, to be changed. After it was found valid, ``changes`` is what the
    service takes. Subclasses say which route: see :func:`form_for`."""

    route_name = AUTO
    """Empty: a new one."""

    route = forms.CharField(
        label="Name",
        max_length=64,
        help_text="As requests name it: letters, digits, '.', '_' and '-'.",
        widget=UnfoldAdminTextInputWidget,
    )
    strategy = _choice("Strategy", STRATEGIES)
    max_load_threshold = _number("Load threshold", "0–1: whoever is fuller is passed over while another is not.", 0, 1)
    min_cache_hit_rate = _number("Least hit rate", "0–1, cache aware: below it a hit rate says nothing.", 0, 1)
    affinity_timeout_sec = _number("Session timeout", "Seconds, affinity based: since its last request.", 1, 10_000_000)
    candidates = forms.MultipleChoiceField(
        label="Candidates", required=False, help_text="None: all models.", widget=UnfoldAdminSelectMultipleWidget
    )
    fallback_models = _lines("Fallbacks", "Ids, one on each line: asked in this order when no candidate has answered.")
    model_weights = _lines("Weights", "A model's id and its weight, one on each line; who is not named is not drawn.")
    enable_health_checks = _switch("Health filters")
    enable_quota_checks = _switch("Limits filter")
    enable_cache_optimization = _switch("What is held counts")
    warm_only = _switch("Only what is loaded")
    max_retries = _whole("Retries", "Attempts after the first one, before the first token.", 10)
    retry_delay_ms = _whole("Pause, in ms", "Before the first of them; it doubles.", 10_000)
    hedge_delay_ms = _whole(
        "Wait for a load, in ms", "Then another candidate that is ready answers. Empty: never.", 600_000, required=False
    )
    ab_test_enabled = _switch("Test two models", "It goes before the strategy.")
    ab_test_model_a = _model("Model A")
    ab_test_model_b = _model("Model B")
    ab_test_split = _number("Share of A", "0–1.", 0, 1)
    ab_test_sticky_by = _choice("Sticks to its variant", _STICKY_BY)
    ab_test_mirror = _switch("Mirror", "A answers everything; B gets copies of its share, whose answers are dropped.")
    ab_test_rollout = _switch(
        "Roll B out",
        "Its share is not the split's but grows in steps, as long as B does well; else all goes back to A.",
    )
    rollout_steps = forms.CharField(
        label="Steps",
        help_text="Shares of B, 0–1, ascending, with spaces between.",
        required=False,
        widget=UnfoldAdminTextInputWidget,
    )
    rollout_step_seconds = _number("Time of a step", "Seconds, at least.", 1, 10_000_000, required=False)
    rollout_step_requests = _whole("Answers of a step", "So many of B, at least.", 1_000_000_000, low=1, required=False)
    rollout_max_error_increase = _number(
        "More errors", "0–1: B goes back when its error rate is surely higher than A's by more.", 0, 1, required=False
    )
    rollout_max_latency_ratio = _number(
        "Later first token",
        "B goes back when its own surely comes later by more than this factor.",
        1,
        1000,
        required=False,
    )
    model_fallbacks = _lines(
        "For a model that was named",
        "Who answers when it can't: its id, a colon, and ids with spaces between, one model on each line.",
    )
    comment = forms.CharField(label="Why", required=False, max_length=500, widget=UnfoldAdminTextInputWidget)

    class Meta:
        model = RoutingRevision
        fields = ("comment",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._config = selectors.routing_find().config
        self.changes: dict[str, Any] = {}
        if self.route_name:
            del self.fields["route"]
        if self.route_name != AUTO:
            del self.fields["model_fallbacks"]
        rules = self._config.all_rules().get(self.route_name, Rules())
        self._offer_models()
        self.initial.update(_initial(rules) | {"model_fallbacks": _fallback_lines(self._config)})

    @classmethod
    def fieldsets(cls) -> tuple[Any, ...]:
        named = ((None, {"fields": ("route",)}),) if not cls.route_name else ()
        fallbacks = (("Fallbacks of models", {"fields": ("model_fallbacks",)}),) if cls.route_name == AUTO else ()
        return (
            *named,
            ("Choice", {"fields": ("strategy", _NUMBERS)}),
            ("Models", {"fields": (("candidates", "fallback_models"), "model_weights")}),
            ("Filters", {"fields": (_CHECKS[:2], _CHECKS[2:])}),
            ("Retries", {"fields": (_RETRIES,)}),
            ("A/B test", {"fields": ("ab_test_enabled", _TEST[1:3], _TEST[3:5], "ab_test_mirror")}),
            ("Roll-out", {"fields": ("ab_test_rollout", _ROLLOUT[0], _ROLLOUT[1:3], _ROLLOUT[3:])}),
            *fallbacks,
            (None, {"fields": ("comment",)}),
        )

    def clean_model_weights(self) -> dict[str, float] | None:
        return dict(_weight(line) for line in _lines_of(self.cleaned_data["model_weights"])) or None

    def clean_rollout_steps(self) -> list[float]:
        return [_share(word) for word in self.cleaned_data["rollout_steps"].replace(",", " ").split()]

    def clean_fallback_models(self) -> list[str]:
        return list(_lines_of(self.cleaned_data["fallback_models"]))

    def clean_model_fallbacks(self) -> dict[str, list[str]]:
        return dict(_fallbacks(line) for line in _lines_of(self.cleaned_data["model_fallbacks"]))

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if self.errors:
            return cleaned
        rules = {name: cleaned[name] for name in _FIELDS} | self._rollout(cleaned)
        for name in ("candidates", "ab_test_model_a", "ab_test_model_b"):
            rules[name] = rules[name] or None
        route = self.route_name or cleaned["route"]
        if route == AUTO:
            self.changes = {**rules, "model_fallbacks": cleaned["model_fallbacks"]}
        else:
            self.changes = {"routes": {route: rules}}
        try:
            changed = services.routing_changed(before=self._config, changes=self.changes)
        except ApiError as refusal:
            field = (refusal.param or "").removeprefix(f"routes.{route}.").partition(".")[0]
            self.add_error(field if field in self.fields else None, refusal.message)
        else:
            if changed == self._config:
                self.add_error(None, "Nothing is different from what is in force.")
        return cleaned

    def _rollout(self, cleaned: dict[str, Any]) -> dict[str, Any]:
        """While the test is off it stays as it is, unless it was changed here. What is empty is as before."""
        if not cleaned["ab_test_enabled"] and {"ab_test_rollout", *_ROLLOUT}.isdisjoint(self.changed_data):
            return {}
        given = {name.removeprefix("rollout_"): cleaned[name] for name in _ROLLOUT if cleaned[name] not in (None, [])}
        return {"ab_test_rollout": given if cleaned["ab_test_rollout"] else None}

    def _offer_models(self) -> None:
        known = Model.objects.filter(alias_of=None).order_by("name").values_list("name", flat=True)
        models = [(name, name) for name in known]
        for name in ("candidates", "ab_test_model_a", "ab_test_model_b"):
            field = self.fields[name]
            assert isinstance(field, forms.ChoiceField)
            field.choices = models if name == "candidates" else [("", "–"), *models]


def form_for(route: str) -> type[RulesForm]:
    """Empty: for a route that is to be added."""
    return type("RulesForm", (RulesForm,), {"route_name": route})


def _initial(rules: Rules) -> dict[str, Any]:
    weights, rollout = rules.model_weights or {}, rules.ab_test_rollout or Rollout()
    return {
        **{name: value for name, value in msgspec.to_builtins(rules).items() if name in _FIELDS},
        **{f"rollout_{name}": value for name, value in msgspec.to_builtins(rollout).items()},
        "ab_test_rollout": rules.ab_test_rollout is not None,
        "rollout_steps": " ".join(f"{share:g}" for share in rollout.steps),
        "fallback_models": "\n".join(rules.fallback_models),
        "model_weights": "\n".join(f"{model} {weight:g}" for model, weight in sorted(weights.items())),
    }


def _fallback_lines(config: Routing) -> str:
    return "\n".join(f"{model}: {' '.join(others)}" for model, others in sorted(config.model_fallbacks.items()))


def _lines_of(text: object) -> Iterable[str]:
    return (line.strip() for line in str(text).splitlines() if line.strip())


def _share(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise forms.ValidationError(f"'{word}': write shares from 0 to 1, with spaces between.") from None


def _weight(line: str) -> tuple[str, float]:
    model, _, number = line.replace("=", " ").rpartition(" ")
    try:
        weight = float(number)
    except ValueError:
        weight = -1.0
    if not model.strip() or not 0 <= weight <= HIGHEST_WEIGHT:
        raise forms.ValidationError(f"'{line}': write a model's id, a space, and a number from 0 to 1,000,000.")
    return model.strip(), weight


def _fallbacks(line: str) -> tuple[str, list[str]]:
    """An id may have a colon in it, with no space behind."""
    model, colon, others = line.partition(": ")
    if not colon or not others.split():
        raise forms.ValidationError(f"'{line}': write a model's id, a colon and a space, and the ids of others.")
    return model.strip(), others.replace(",", " ").split()
