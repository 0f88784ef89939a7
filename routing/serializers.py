"""What the endpoints of the routing configuration take and give."""

from datetime import UTC, datetime
from typing import Any

from rest_framework import serializers

from registry.rest import StrictBoolean, StrictChoice, StrictInput, StrictInteger, StrictNumber, StrictString
from routing.config import AUTO, HIGHEST_WEIGHT, MOST_NAMES, MOST_ROUTES, ROUTE_NAME, StickyBy, Strategy
from routing.experiments.standing import RolloutState, Standing

_STRATEGIES = [strategy.value for strategy in Strategy]
_STICKY = [each.value for each in StickyBy]
_LONGEST_NAME = 200


class StrategyField(StrictChoice):
    """One of the eight. An A/B test is none: it goes before the strategy."""

    def to_internal_value(self, data: Any) -> str:
        if data in ("ab_test", "a/b_test", "ab"):
            raise serializers.ValidationError(
                "An A/B test is no strategy: it goes before one. Set ab_test_enabled, ab_test_model_a and "
                f"ab_test_model_b, and a strategy of {', '.join(self.choices)}."
            )
        return super().to_internal_value(data)


def _fraction(help_text: str) -> StrictNumber:
    return StrictNumber(required=False, min_value=0, max_value=1, help_text=help_text)


def _model(**options: Any) -> StrictString:
    return StrictString(max_length=_LONGEST_NAME, **options)


def _models(help_text: str, **options: Any) -> serializers.ListField:
    return serializers.ListField(child=_model(), required=False, max_length=MOST_NAMES, help_text=help_text, **options)


class RolloutChange(StrictInput):
    """Variant B gets more and more, as long as it does well. What is not named stays."""

    steps = serializers.ListField(
        child=StrictNumber(min_value=0, max_value=1),
        required=False,
        min_length=1,
        max_length=100,
        help_text="Shares of B, ascending.",
    )
    step_seconds = StrictNumber(
        required=False, min_value=1, max_value=10_000_000, help_text="The least time of a step."
    )
    step_requests = StrictInteger(
        required=False, min_value=1, max_value=1_000_000_000, help_text="So many must B have answered in a step."
    )
    max_error_increase = _fraction("Rolled back when B's error rate is surely higher than A's by more than this.")
    max_latency_ratio = StrictNumber(
        required=False,
        min_value=1,
        max_value=1000,
        help_text="Rolled back when B's time to first token is surely longer than A's by more than this factor.",
    )


class RulesChange(StrictInput):
    """Of one route. A partial update: what is not named stays."""

    strategy = StrategyField(choices=_STRATEGIES, required=False, help_text="How one of the candidates is chosen.")
    max_load_threshold = _fraction("Candidates whose load is above it are passed over while another one's is below.")
    min_cache_hit_rate = _fraction("cache_aware: below it a hit rate says nothing, and load decides.")
    affinity_timeout_sec = StrictNumber(
        required=False,
        min_value=1,
        max_value=10_000_000,
        help_text="affinity_based: how long a session sticks after its last request.",
    )
    enable_health_checks = StrictBoolean(required=False, help_text="False: health does not filter.")
    enable_quota_checks = StrictBoolean(
        required=False, help_text="False: what is left of limits does not filter. It is held to nevertheless."
    )
    enable_cache_optimization = StrictBoolean(
        required=False, help_text="False: what candidates hold of a prompt counts for nothing."
    )
    warm_only = StrictBoolean(required=False, help_text="Models that would have to be loaded are no candidates.")
    model_weights = serializers.DictField(
        child=StrictNumber(min_value=0, max_value=HIGHEST_WEIGHT),
        required=False,
        allow_null=True,
        help_text="weighted_random: by the model's id; who is not named has 0. Null: by their scores.",
    )
    candidates = _models("Ids of models. Null: all.", allow_null=True)
    fallback_models = _models("Asked in this order when no candidate has answered.")
    max_retries = StrictInteger(
        required=False, min_value=0, max_value=10, help_text="Attempts after the first one, before the first token."
    )
    retry_delay_ms = StrictInteger(
        required=False,
        min_value=0,
        max_value=10_000,
        help_text="Before the first of them; doubled each time up to 10 s, ± half.",
    )
    hedge_delay_ms = StrictInteger(
        required=False,
        allow_null=True,
        min_value=0,
        max_value=600_000,
        help_text="Who has waited so long for its model to be loaded is answered by another candidate that is ready. "
        "Null: never.",
    )
    ab_test_enabled = StrictBoolean(required=False, help_text="It goes before the strategy.")
    ab_test_split = _fraction("The share of A.")
    ab_test_model_a = _model(required=False, allow_null=True)
    ab_test_model_b = _model(required=False, allow_null=True)
    ab_test_sticky_by = StrictChoice(
        choices=_STICKY, required=False, help_text="What keeps to its variant: X-Session-ID, or the API key."
    )
    ab_test_mirror = StrictBoolean(
        required=False, help_text="A answers everything; B gets copies of its share, whose answers are dropped."
    )
    ab_test_rollout = RolloutChange(
        required=False,
        allow_null=True,
        help_text="B's share is not the split's but grows in steps, as long as B does well. Null: it does not.",
    )


class RoutesField(serializers.DictField):
    """Rules by the route's name; null removes a route."""

    child = RulesChange(allow_null=True)

    def to_internal_value(self, data: Any) -> Any:
        values = super().to_internal_value(data)
        for name in values:
            if not ROUTE_NAME.fullmatch(name) or name == AUTO:
                raise serializers.ValidationError(
                    {name: [f"A route's name has 1 to 64 letters, digits, '.', '_' and '-', and is not '{AUTO}'."]}
                )
        if len(values) > MOST_ROUTES:
            raise serializers.ValidationError(f"{len(values)} routes are too many: {MOST_ROUTES} may be.")
        return values


class RoutingChange(RulesChange):
    """A partial update: what is not named stays. The rules are those of the default route, auto."""

    routes = RoutesField(required=False, help_text="Other routes, which requests name as they name a model.")
    model_fallbacks = serializers.DictField(
        child=_models("Ids of models."),
        required=False,
        help_text="By the id of a model that a request names: who answers when it can't. Replaces the object before.",
    )


class RestartInput(StrictInput):
    route = _model(help_text="Its name; the default route is auto.")


class RolloutOut(serializers.Serializer[Any]):
    steps = serializers.ListField(child=serializers.FloatField())
    step_seconds = serializers.FloatField()
    step_requests = serializers.IntegerField()
    max_error_increase = serializers.FloatField()
    max_latency_ratio = serializers.FloatField()


class RulesOut(serializers.Serializer[Any]):
    strategy = serializers.ChoiceField(choices=_STRATEGIES)
    max_load_threshold = serializers.FloatField()
    min_cache_hit_rate = serializers.FloatField()
    affinity_timeout_sec = serializers.FloatField()
    enable_health_checks = serializers.BooleanField()
    enable_quota_checks = serializers.BooleanField()
    enable_cache_optimization = serializers.BooleanField()
    warm_only = serializers.BooleanField()
    model_weights = serializers.DictField(child=serializers.FloatField(), allow_null=True)
    candidates = serializers.ListField(child=serializers.CharField(), allow_null=True)
    fallback_models = serializers.ListField(child=serializers.CharField())
    max_retries = serializers.IntegerField()
    retry_delay_ms = serializers.IntegerField()
    hedge_delay_ms = serializers.IntegerField(allow_null=True)
    ab_test_enabled = serializers.BooleanField()
    ab_test_split = serializers.FloatField()
    ab_test_model_a = serializers.CharField(allow_null=True)
    ab_test_model_b = serializers.CharField(allow_null=True)
    ab_test_sticky_by = serializers.ChoiceField(choices=_STICKY)
    ab_test_mirror = serializers.BooleanField()
    ab_test_rollout = RolloutOut(allow_null=True)


class RoutingConfigOut(RulesOut):
    routes = serializers.DictField(child=RulesOut())
    model_fallbacks = serializers.DictField(child=serializers.ListField(child=serializers.CharField()))


class VariantOut(serializers.Serializer[Any]):
    """Within a step."""

    requests = serializers.IntegerField(help_text="That were drawn for it, and have ended.")
    answered = serializers.IntegerField()
    # DRF's own ``errors`` is of what is parsed; this is only shown.
    errors = serializers.IntegerField(help_text="That clients were told of.")  # type: ignore[assignment]
    unavailable = serializers.IntegerField(help_text="The other variant had to answer.")
    mean_first_token_seconds = serializers.FloatField(allow_null=True)


class StandingOut(serializers.Serializer[Any]):
    """How far a roll-out has come."""

    state = serializers.ChoiceField(choices=[state.value for state in RolloutState])
    step = serializers.IntegerField(help_text="From 1.")
    steps = serializers.IntegerField()
    share_of_b = serializers.FloatField(help_text="In force: 0 to 1.")
    since = serializers.SerializerMethodField(help_text="When the step began.")
    a = VariantOut()
    b = VariantOut()
    words = serializers.CharField(help_text="A sentence; why it was rolled back, if it was.")

    def get_since(self, standing: Standing) -> datetime:
        return datetime.fromtimestamp(standing.since, UTC)


class RoutingOut(RoutingConfigOut):
    revision = serializers.IntegerField()
    rollouts = serializers.DictField(
        child=StandingOut(), help_text="By route: how far the roll-outs of A/B tests have come."
    )


class RoutingRevisionOut(serializers.Serializer[Any]):
    revision = serializers.IntegerField(source="number")
    author = serializers.CharField(help_text="The key or the user that set it.")
    comment = serializers.CharField()
    created_at = serializers.DateTimeField()
    config = RoutingConfigOut()
