"""What the endpoints of the KV cache's control plane take and give."""

from typing import Any

from rest_framework import serializers

from registry.cache.configuration import HIGHEST_PRIORITY, Strategy
from registry.cache.eviction import EvictionPolicy
from registry.rest import StrictBoolean, StrictChoice, StrictInput, StrictInteger, StrictNumber, StrictString

_MOST_GB = 1024 * 1024
_MOST = 2**53
"""JSON numbers are exact up to here."""

_STRATEGIES = [strategy.value for strategy in Strategy]
_POLICIES = [policy.value for policy in EvictionPolicy]


def _limit(**options: Any) -> StrictInteger:
    return StrictInteger(required=False, allow_null=True, min_value=0, max_value=_MOST, **options)


def _size(help_text: str) -> StrictNumber:
    return StrictNumber(required=False, allow_null=True, min_value=0, max_value=_MOST_GB, help_text=help_text)


class PerModelQuota(StrictInput):
    """Limits of models that have none of their own; null: none. Replaces the object before."""

    max_ram_mb = _limit(help_text="Caps a model's part of the cache in RAM, in MiB.")
    max_ssd_gb = _size("Caps a model's part of the cache on SSD, in GiB.")
    hourly_token_limit = _limit()
    hourly_request_limit = _limit()
    daily_token_limit = _limit()
    daily_request_limit = _limit()
    burst_token_limit = _limit()
    max_concurrent_requests = _limit()


class AllocationChange(StrictInput):
    """A partial update: what is not named stays."""

    global_cache_size_gb = _size("RAM and SSD together, in GiB, on each node. Alone it is divided anew.")
    global_cache_ram_gb = _size("Null: as the global size leaves it, else a quarter of the node's memory budget.")
    global_cache_ssd_gb = _size("Null: as the global size leaves it, else a tenth of what is free. 0: no SSD tier.")
    allocation_strategy = StrictChoice(choices=_STRATEGIES, required=False)
    global_eviction_policy = StrictChoice(choices=_POLICIES, required=False)
    model_priorities = serializers.DictField(
        child=StrictInteger(min_value=0, max_value=HIGHEST_PRIORITY),
        required=False,
        help_text="By the model's id; 5 for those that are not named. Replaces the object before.",
    )
    per_model_quota = PerModelQuota(required=False)


class SizeOut(serializers.Serializer[Any]):
    configured_bytes = serializers.IntegerField()
    effective_bytes = serializers.IntegerField(help_text="What is used: no more than the node has.")


class ShareOut(serializers.Serializer[Any]):
    ram_bytes = serializers.IntegerField()
    ssd_bytes = serializers.IntegerField()
    why = serializers.CharField()


class NodeCacheOut(serializers.Serializer[Any]):
    node = serializers.CharField()
    ram = SizeOut(source="sizes.ram")
    ssd = SizeOut(source="sizes.ssd")
    per_model = serializers.DictField(
        child=ShareOut(), source="shares", help_text="What each model is owed, by its id. It may borrow what is free."
    )


class ConfigOut(serializers.Serializer[Any]):
    global_cache_size_gb = serializers.FloatField(allow_null=True)
    global_cache_ram_gb = serializers.FloatField(allow_null=True)
    global_cache_ssd_gb = serializers.FloatField(allow_null=True)
    allocation_strategy = serializers.ChoiceField(choices=_STRATEGIES)
    global_eviction_policy = serializers.ChoiceField(choices=_POLICIES)
    model_priorities = serializers.DictField(child=serializers.IntegerField())
    per_model_quota = PerModelQuota()


class AllocationOut(ConfigOut):
    revision = serializers.IntegerField()
    nodes = NodeCacheOut(many=True)


class RevisionOut(serializers.Serializer[Any]):
    revision = serializers.IntegerField(source="number")
    author = serializers.CharField(help_text="The key or the user that set it.")
    comment = serializers.CharField()
    created_at = serializers.DateTimeField()
    config = ConfigOut()


class SharedPromptCreate(StrictInput):
    name = StrictString(max_length=100)
    text = StrictString(
        trim_whitespace=False, max_length=1_000_000, help_text="The system message to be shared, to the letter."
    )
    enabled = StrictBoolean(required=False)


class SharedPromptPatch(StrictInput):
    """A partial update: what is not named stays."""

    text = StrictString(required=False, trim_whitespace=False, max_length=1_000_000)
    enabled = StrictBoolean(required=False)


class SharedPromptOut(serializers.Serializer[Any]):
    name = serializers.CharField()
    text = serializers.CharField()
    enabled = serializers.BooleanField()
    created_at = serializers.DateTimeField()
