"""What the registry's endpoints take and give. Shapes only; what a value means is decided by the services."""

from typing import Any

from rest_framework import serializers

from registry.models import Node, Replica, Version
from registry.nodes.selectors import node_is_up
from registry.parameters import FIELDS
from registry.rest import StrictBoolean, StrictChoice, StrictInput, StrictInteger, StrictString

# --- In --------------------------------------------------------------------------------------------------------------


def _capabilities(**options: Any) -> serializers.ListField:
    return serializers.ListField(child=StrictString(max_length=64), max_length=32, **options)


class ModelRegister(StrictInput):
    id = StrictString(max_length=200)
    path = StrictString(
        help_text="A GGUF or a folder under an allowed models directory; relative to the project's root."
    )
    version = StrictString(required=False, help_text="Semantic version; 1.0.0 if absent.")
    display_name = StrictString(required=False, allow_blank=True, max_length=200)
    capabilities = _capabilities(required=False, help_text="Beyond what the GGUF says, such as arabic_nlp.")
    preload = StrictBoolean(required=False)


class ModelDefault(StrictInput):
    model_id = StrictString()


class ModelPatch(StrictInput):
    """A partial update: what is not named stays."""

    display_name = StrictString(required=False, allow_blank=True, max_length=200)
    enabled = StrictBoolean(required=False)
    preload = StrictBoolean(required=False, help_text="Load at start and keep loaded.")
    replicas = StrictInteger(
        required=False,
        min_value=1,
        max_value=1000,
        help_text="On how many nodes it is loaded, where there are so many.",
    )
    extra_capabilities = _capabilities(required=False, help_text="Beyond what the GGUF says; replaces the list.")


class VersionPromote(StrictInput):
    version = StrictString()


class VersionPatch(StrictInput):
    parameters = serializers.DictField(
        child=serializers.JSONField(allow_null=True),
        help_text="llama.cpp's; replaces the object before, and what is not named is chosen. Each may be: "
        + "; ".join(f"`{name}` {kind.allowed}" for name, kind in FIELDS.items())
        + ".",
    )


class ReplicaDesire(StrictInput):
    version = StrictString(required=False, help_text="The promoted one if absent.")
    node = StrictString(required=False, help_text="Every node if absent.")


# --- Out -------------------------------------------------------------------------------------------------------------


class ModelOut(serializers.Serializer[Any]):
    """The fields of :func:`registry.presentation.model_fields`, and what operators want to know beside them."""

    id = serializers.CharField()
    object = serializers.CharField()
    created = serializers.IntegerField(help_text="Seconds since the epoch.")
    owned_by = serializers.CharField()
    display_name = serializers.CharField()
    path = serializers.CharField(allow_null=True)
    version = serializers.CharField(allow_null=True, help_text="The version that the bare id means.")
    architecture = serializers.CharField(allow_blank=True)
    parameter_count = serializers.CharField(allow_null=True, help_text="Three digits and a unit: 135M.")
    quantization = serializers.CharField(allow_blank=True)
    context_length = serializers.IntegerField(allow_null=True, help_text="Tokens.")
    capabilities = serializers.ListField(child=serializers.CharField())
    size_bytes = serializers.IntegerField()
    enabled = serializers.BooleanField()
    preload = serializers.BooleanField()
    remote = serializers.BooleanField(help_text="A backend elsewhere answers.")
    health_status = serializers.ChoiceField(choices=Version.HealthStatus.choices)
    state = serializers.ChoiceField(choices=["cold", "loading", "ready", "draining"])
    use_count = serializers.IntegerField()


class ControlledModelOut(ModelOut):
    is_default = serializers.BooleanField()
    alias_of = serializers.CharField(allow_null=True)
    extra_capabilities = serializers.ListField(child=serializers.CharField())
    replicas = serializers.IntegerField(help_text="On how many nodes it is loaded, where there are so many.")
    health_reason = serializers.CharField(allow_blank=True)
    backend = serializers.CharField(allow_null=True, help_text="Its URL, where a backend elsewhere answers.")
    versions = serializers.ListField(child=serializers.CharField(), help_text="Newest first.")


class MeasuredOut(serializers.Serializer[Any]):
    parameters = serializers.DictField()
    decode_seconds = serializers.FloatField(help_text="Of a step in which four sequences grow by a token each.")
    mixed_seconds = serializers.FloatField(help_text="The same with a chunk of a prompt.")


class TuningOut(serializers.Serializer[Any]):
    machine = serializers.CharField()
    parameters = serializers.DictField(help_text="What is faster than the engine's own choice.")
    holds = serializers.BooleanField(help_text="It was measured under the parameters that are set now.")
    measured = MeasuredOut(many=True)
    measured_at = serializers.DateTimeField()


class VersionOut(serializers.Serializer[Any]):
    model = serializers.CharField(source="model.name")
    version = serializers.CharField(source="number")
    promoted = serializers.SerializerMethodField()
    source = serializers.ChoiceField(choices=Version.Source.choices)  # type: ignore[assignment] # a DRF attribute too
    path = serializers.CharField(help_text="Of its file or folder; of a backend elsewhere, the URL.")
    files = serializers.ListField(child=serializers.CharField())
    size_bytes = serializers.IntegerField()
    sha256 = serializers.CharField(allow_blank=True, help_text="Of the whole content; empty until it is computed.")
    architecture = serializers.CharField(allow_blank=True)
    parameter_count = serializers.IntegerField(allow_null=True)
    quantization = serializers.CharField(allow_blank=True)
    context_length = serializers.IntegerField(allow_null=True)
    capabilities = serializers.ListField(child=serializers.CharField())
    file_state = serializers.ChoiceField(choices=Version.FileState.choices)
    health_status = serializers.ChoiceField(choices=Version.HealthStatus.choices, source="health")
    health_reason = serializers.CharField(allow_blank=True)
    health_checked_at = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()
    parameters = serializers.DictField(help_text="llama.cpp's, that were set; the rest is chosen.")
    tunings = TuningOut(many=True, help_text="What was measured to be fastest, by machine.")

    def get_promoted(self, version: Version) -> bool:
        return version.model.promoted_id == version.pk


class NodeOrder(StrictInput):
    duty = StrictChoice(choices=Node.Duty.choices)


class NodeOut(serializers.Serializer[Any]):
    name = serializers.CharField()
    up = serializers.SerializerMethodField(help_text="Whether its supervisor was heard of lately.")
    duty = serializers.ChoiceField(choices=Node.Duty.choices)
    address = serializers.CharField(allow_blank=True, help_text="Where other nodes reach it: host:port.")
    loaded = serializers.IntegerField(help_text="Replicas that are in memory there.")
    ram_budget_mb = serializers.IntegerField()
    disk_bytes = serializers.IntegerField(allow_null=True, help_text="Free for the cache; null until it was told.")
    supervisor_pid = serializers.IntegerField(allow_null=True)
    started_at = serializers.DateTimeField(allow_null=True)
    last_seen_at = serializers.DateTimeField(allow_null=True)

    def get_up(self, node: Node) -> bool:
        return node_is_up(node)


class ReplicaOut(serializers.Serializer[Any]):
    node = serializers.CharField(source="node.name")
    model = serializers.CharField(source="version.model.name")
    version = serializers.CharField(source="version.number")
    desired = serializers.ChoiceField(choices=Replica.Desired.choices)
    observed = serializers.ChoiceField(choices=Replica.Observed.choices)
    reason = serializers.CharField(allow_blank=True)
    pid = serializers.IntegerField(allow_null=True)
    restarts = serializers.IntegerField()
    observed_at = serializers.DateTimeField(allow_null=True)


class ScanOut(serializers.Serializer[Any]):
    discovered = serializers.ListField(child=serializers.CharField(), help_text="Ids of models that are new.")
    versions = serializers.ListField(child=serializers.CharField(), help_text="New versions of known models.")
    missing = serializers.ListField(child=serializers.CharField(), help_text="What has vanished since the last scan.")
    unusable = serializers.DictField(child=serializers.CharField(), help_text="Why, by id.")
    files = serializers.IntegerField()
    seconds = serializers.FloatField()
