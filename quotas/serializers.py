"""What the endpoints of limits take and give."""

from typing import Any

from rest_framework import serializers

from quotas.caller_limits import HIGHEST_LIMIT
from quotas.callers import HIGHEST_PRIORITY
from quotas.ledger import Unit
from quotas.limits import AtHardLimit, OnDatabaseLoss
from quotas.modes import Mode
from registry.rest import (
    StrictBoolean,
    StrictChoice,
    StrictInput,
    StrictInteger,
    StrictNumber,
    StrictString,
    bounds_told,
)

OR_NO_LIMIT = bounds_told(", or null for no limit")

_ON_DATABASE_LOSS = [each.value for each in OnDatabaseLoss]


def _limit(help_text: str) -> StrictInteger:
    return StrictInteger(
        required=False,
        allow_null=True,
        min_value=0,
        max_value=HIGHEST_LIMIT,
        error_messages=OR_NO_LIMIT,
        help_text=help_text,
    )


def _percent(what: str) -> StrictNumber:
    return StrictNumber(required=False, min_value=0.1, max_value=100, help_text=f"Percent of a limit: {what}.")


class SoftLimitsChange(StrictInput):
    """Ascending, as a whole. What is not named stays."""

    info = _percent("it is logged, as INFO")
    warn = _percent("as WARN")
    throttle = _percent("requests are slowed down to half of the limit's even pace")
    aggressive_throttle = _percent("to a quarter of it; it is logged as ERROR")


class DegradationChange(StrictInput):
    """What is done beyond the soft limits. What is not named stays."""

    pace = StrictBoolean(required=False, help_text="Throttled: requests are spaced, so that the limit lasts.")
    max_tokens_cap = StrictInteger(
        required=False,
        allow_null=True,
        min_value=1,
        max_value=HIGHEST_LIMIT,
        error_messages=OR_NO_LIMIT,
        help_text="Throttled: answers are cut there.",
    )
    sibling = StrictString(
        required=False,
        allow_null=True,
        max_length=200,
        help_text="A model that answers instead, if it is not throttled.",
    )
    at_hard_limit = StrictChoice(
        choices=[each.value for each in AtHardLimit], required=False, help_text="What becomes of requests at the end."
    )
    queue_seconds = StrictNumber(required=False, min_value=0, max_value=600, help_text="The longest wait of a request.")
    queue_length = StrictInteger(
        required=False, min_value=0, max_value=10_000, help_text="So many may wait in one gateway process."
    )
    emergency_priority = StrictInteger(
        required=False, min_value=0, max_value=HIGHEST_PRIORITY, help_text="In an emergency, from this priority on."
    )


class QuotaChange(StrictInput):
    """A partial update: what is not named stays; null takes a limit away."""

    max_ram_mb = _limit("Of memory, in MiB: for its part of the cache, and for its weights, or it is not loaded.")
    max_ssd_gb = StrictNumber(
        required=False,
        allow_null=True,
        min_value=0,
        max_value=1024 * 1024,
        error_messages=OR_NO_LIMIT,
        help_text="Caps its part of the cache on SSD, in GiB.",
    )
    hourly_token_limit = _limit("Tokens of prompts and answers, from hour to hour.")
    hourly_request_limit = _limit("Requests, from hour to hour.")
    daily_token_limit = _limit("Tokens, from midnight to midnight (NOPENAI_TIME_ZONE).")
    daily_request_limit = _limit("Requests, from midnight to midnight.")
    burst_token_limit = _limit("Tokens of one request, prompt and answer together.")
    max_concurrent_requests = _limit("Requests at the same time, over all gateways.")
    soft_limits = SoftLimitsChange(required=False)
    throttling_enabled = StrictBoolean(required=False, help_text="False: soft limits are logged, and that is all.")
    degradation_policy = DegradationChange(required=False)
    on_database_loss = StrictChoice(
        choices=_ON_DATABASE_LOSS,
        required=False,
        help_text="What becomes of requests when PostgreSQL is away and what was leased is spent: closed refuses them, "
        "open serves them and charges them later.",
    )


class SoftLimitsOut(serializers.Serializer[Any]):
    info = serializers.FloatField()
    warn = serializers.FloatField()
    throttle = serializers.FloatField()
    aggressive_throttle = serializers.FloatField()


class DegradationOut(serializers.Serializer[Any]):
    pace = serializers.BooleanField()
    max_tokens_cap = serializers.IntegerField(allow_null=True)
    sibling = serializers.CharField(allow_null=True)
    at_hard_limit = serializers.ChoiceField(choices=[each.value for each in AtHardLimit])
    queue_seconds = serializers.FloatField()
    queue_length = serializers.IntegerField()
    emergency_priority = serializers.IntegerField()


class QuotaOut(serializers.Serializer[Any]):
    model_id = serializers.CharField()
    revision = serializers.IntegerField(help_text="0: nobody ever changed them.")
    own = serializers.BooleanField(help_text="False: the model has no limits of its own, but the default ones.")
    max_ram_mb = serializers.IntegerField(allow_null=True)
    max_ssd_gb = serializers.FloatField(allow_null=True)
    hourly_token_limit = serializers.IntegerField(allow_null=True)
    hourly_request_limit = serializers.IntegerField(allow_null=True)
    daily_token_limit = serializers.IntegerField(allow_null=True)
    daily_request_limit = serializers.IntegerField(allow_null=True)
    burst_token_limit = serializers.IntegerField(allow_null=True)
    max_concurrent_requests = serializers.IntegerField(allow_null=True)
    soft_limits = SoftLimitsOut()
    throttling_enabled = serializers.BooleanField()
    degradation_policy = DegradationOut()
    on_database_loss = serializers.ChoiceField(choices=_ON_DATABASE_LOSS)


class QuotaRevisionOut(serializers.Serializer[Any]):
    revision = serializers.IntegerField(source="number")
    author = serializers.CharField(help_text="The key or the user that set it.")
    comment = serializers.CharField()
    created_at = serializers.DateTimeField()
    quotas = serializers.JSONField(
        source="quota",
        allow_null=True,
        help_text="As GET /quotas/{model_id} has them; null: it gave up its own for the default ones.",
    )


class WindowUseOut(serializers.Serializer[Any]):
    name = serializers.CharField()
    unit = serializers.ChoiceField(choices=[unit.value for unit in Unit])
    limit = serializers.IntegerField()
    used = serializers.IntegerField(help_text="By requests that are over.")
    reserved = serializers.IntegerField(help_text="Promised to requests that run.")
    remaining = serializers.IntegerField()
    percent = serializers.FloatField(help_text="Used and promised, of the limit.")
    starts_at = serializers.DateTimeField()
    ends_at = serializers.DateTimeField()


class QuotaReportOut(serializers.Serializer[Any]):
    model_id = serializers.CharField()
    revision = serializers.IntegerField()
    mode = serializers.ChoiceField(
        choices=[mode.value for mode in Mode],
        help_text="By what is used now. Gateways leave a mode later than they enter it: see /metrics/quotas.",
    )
    percent = serializers.FloatField(help_text="Of the limit that is nearest its end.")
    burst_token_limit = serializers.IntegerField(source="quota.burst_token_limit", allow_null=True)
    max_concurrent_requests = serializers.IntegerField(source="quota.max_concurrent_requests", allow_null=True)
    soft_limits = SoftLimitsOut(source="quota.soft_limits")
    windows = WindowUseOut(many=True)


class EmergencyChange(StrictInput):
    enabled = StrictBoolean(help_text="True: only requests of high priority are served, by every gateway.")
    reason = StrictString(
        required=False, allow_blank=True, max_length=500, help_text="What clients and the log are told."
    )


class EmergencyOut(serializers.Serializer[Any]):
    enabled = serializers.BooleanField()
    reason = serializers.CharField(allow_blank=True)
    author = serializers.CharField(allow_blank=True, help_text="The key or the user that set it.")
    since = serializers.DateTimeField(allow_null=True, help_text="Null: there never was one.")
