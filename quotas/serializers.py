"""What the endpoints of limits take and give."""

from typing import Any

from rest_framework import serializers

from quotas.ledger import Unit
from quotas.limits import OnDatabaseLoss
from registry.rest import StrictChoice, StrictInput, StrictInteger, StrictNumber

_MOST = 2**53
"""JSON numbers are exact up to here."""

_ON_DATABASE_LOSS = [each.value for each in OnDatabaseLoss]


def _limit(help_text: str) -> StrictInteger:
    return StrictInteger(required=False, allow_null=True, min_value=0, max_value=_MOST, help_text=help_text)


class QuotaChange(StrictInput):
    """A partial update: what is not named stays; null takes a limit away."""

    max_ram_mb = _limit("Caps its part of the cache in RAM, in MiB.")
    max_ssd_gb = StrictNumber(
        required=False,
        allow_null=True,
        min_value=0,
        max_value=1024 * 1024,
        help_text="Caps its part of the cache on SSD, in GiB.",
    )
    hourly_token_limit = _limit("Tokens of prompts and answers, from hour to hour.")
    hourly_request_limit = _limit("Requests, from hour to hour.")
    daily_token_limit = _limit("Tokens, from midnight to midnight (NOPENAI_TIME_ZONE).")
    daily_request_limit = _limit("Requests, from midnight to midnight.")
    burst_token_limit = _limit("Tokens of one request, prompt and answer together.")
    max_concurrent_requests = _limit("Requests at the same time, over all gateways.")
    on_database_loss = StrictChoice(
        choices=_ON_DATABASE_LOSS,
        required=False,
        help_text="What becomes of requests when PostgreSQL is away and what was leased is spent: closed refuses them, "
        "open serves them and charges them later.",
    )


class QuotaOut(serializers.Serializer[Any]):
    model_id = serializers.CharField()
    revision = serializers.IntegerField(help_text="0: the model has no limits of its own, but the default ones.")
    max_ram_mb = serializers.IntegerField(allow_null=True)
    max_ssd_gb = serializers.FloatField(allow_null=True)
    hourly_token_limit = serializers.IntegerField(allow_null=True)
    hourly_request_limit = serializers.IntegerField(allow_null=True)
    daily_token_limit = serializers.IntegerField(allow_null=True)
    daily_request_limit = serializers.IntegerField(allow_null=True)
    burst_token_limit = serializers.IntegerField(allow_null=True)
    max_concurrent_requests = serializers.IntegerField(allow_null=True)
    on_database_loss = serializers.ChoiceField(choices=_ON_DATABASE_LOSS)


class QuotaRevisionOut(serializers.Serializer[Any]):
    revision = serializers.IntegerField(source="number")
    author = serializers.CharField(help_text="The key or the user that set it.")
    comment = serializers.CharField()
    created_at = serializers.DateTimeField()
    quotas = serializers.JSONField(source="quota", help_text="As GET /quotas/{model_id} has them.")


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
    windows = WindowUseOut(many=True)
